-- renew: keep the record, if it is still the leader's own. Where Redis lost it, write a vacancy,
-- which the leader may take back in a second step.
-- KEYS[1] lease, then the ledger's two hashes if it is looked at, then the presences if the candidate
--      says something
-- ARGV candidate id, token, nonce, ttl in ms, longest ttl in ms, '1' to look at the ledger; or in
--      addition the candidate's id, what it says of itself, and where to prune, if that
-- RETURNS 'accepted', 'vacant' or 'rejected', and the record; after a look also the sentinels of
-- both hashes, empty where there is none, and TIME in microseconds; then what became of what the
-- candidate says
-- TIME names the renewal, and says when the candidate was seen
local epoch, problem = server_epoch()
if problem then return problem end

local function renewed()
  local record, vacated = read_or_vacate(KEYS[1], epoch, ARGV[3], ARGV[5], ARGV[2])
  if vacated then
    return answer('vacant', record, epoch)
  end
  if record.holder ~= ARGV[1] or digits(record.token) ~= ARGV[2] or record.resigned then
    return answer('rejected', record, epoch)
  end
  record = write(KEYS[1], epoch, ARGV[1], record.token, fresh(ARGV[3]), tonumber(ARGV[4]))
  return answer('accepted', record, epoch)
end

-- By pcall, and after the record is written: whatever the ledger's keys hold, the lease is renewed.
local function sentinel(key)
  local raw = redis.pcall('HGET', key, '\255ledger')
  if type(raw) == 'table' then
    return '?' .. string.sub(raw.err, 1, 100)
  end
  return string.sub(raw or '', 1, 512)
end

local reply = renewed()
if ARGV[6] == '1' then
  local now = redis.call('TIME')
  reply[8], reply[9] = sentinel(KEYS[2]), sentinel(KEYS[3])
  reply[10] = now[1] .. string.format('%06d', now[2])
end
if ARGV[8] then
  reply[#reply + 1] = announce(KEYS[ARGV[6] == '1' and 4 or 2], ARGV[7], ARGV[8], ARGV[9], ARGV[5])
end
return reply
