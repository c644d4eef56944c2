-- adopt: make the ledger the caller's, under a new generation.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending, KEYS[4] lease record of the other election.
-- ARGV[1] holder, ARGV[2] fencing token, ARGV[3] sentinel to write, ARGV[4] newest format known,
-- ARGV[5] election of the caller, ARGV[6] election that KEYS[4] belongs to,
-- ARGV[7] token and ARGV[8] renewal of that election's record, watched standing still; or empty.
-- RETURNS {OK, sentinel of runs before, of pending before, fields in runs, fields in pending},
--   {FENCED, holder, token, resigned}, {FORMAT, sentinel},
--   {OWNED, election, holder, token, renewal, ttl in ms}: holder is false if KEYS[4] is not of
--   that election.
-- TIME none. Constant cost.

local refusal = fence()
if refusal then
  return refusal
end

local found = {}
for i = 2, 3 do
  local raw = redis.call('HGET', KEYS[i], SENTINEL) or ''
  local format = string.match(raw, '^(%d+) ')
  if raw ~= '' and not (format and tonumber(format) <= tonumber(ARGV[4]) and parse_sentinel(raw)) then
    return {'FORMAT', raw}
  end
  found[i] = raw
end

local function free(lease)
  local gone = not lease[1] or lease[1] == '' or lease[3] == '1'
  local still = ARGV[7] ~= '' and lease[2] == ARGV[7] and lease[4] == ARGV[8]
  return gone or still
end

local _, _, _, _, owner = parse_sentinel(found[2] ~= '' and found[2] or found[3])
if owner and owner ~= ARGV[5] then
  if owner ~= ARGV[6] then
    return {'OWNED', owner, false}
  end
  local lease = redis.call('HMGET', KEYS[4], 'holder', 'token', 'resigned', 'renewal', 'ttl')
  if not free(lease) then
    return {'OWNED', owner, lease[1], lease[2] or '', lease[4] or '', lease[5] or ''}
  end
end

redis.call('HSET', KEYS[2], SENTINEL, ARGV[3])
redis.call('HSET', KEYS[3], SENTINEL, ARGV[3])
return {'OK', found[2], found[3], redis.call('HLEN', KEYS[2]) - 1, redis.call('HLEN', KEYS[3]) - 1}
