-- adopt: make the ledger the caller's, under a new generation. Put after epoch (of the election's
-- scripts) and sentinel.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending, KEYS[4] lease record of the other election.
-- ARGV[1] holder, ARGV[2] fencing token, ARGV[3] generation, ARGV[4] newest format known,
-- ARGV[5] election of the caller, ARGV[6] election that KEYS[4] belongs to,
-- ARGV[7] token and ARGV[8] renewal of that election's record, watched standing still; or empty.
-- ARGV[9] mark to write if there is none that counts; empty: the caller will merge its memory in,
-- and until then the ledger is partial. ARGV[10] number, ARGV[11] end and ARGV[12] state (2 in
-- force, 1 over) of the last pause that the caller's memory has; empty if it has none.
-- RETURNS {status, sentinel of runs before, of pending before, fields in runs, fields in
--   pending, mark written or empty, epoch of the server or empty where it does not say},
--   {FENCED, holder, token, resigned}, {FORMAT, sentinel},
--   {OWNED, election, holder, token, renewal, ttl in ms}: holder is false if KEYS[4] is not of
--   that election.
-- TIME ends a pause that has run out. Constant cost.

local refusal = fence()
if refusal then
  return refusal
end

local raws, sentinels = {}, {}
for i = 2, 3 do
  local raw = redis.call('HGET', KEYS[i], SENTINEL) or ''
  local sentinel = parse_sentinel(raw)
  if raw ~= '' and not (sentinel and tonumber(sentinel.format) <= tonumber(ARGV[4])) then
    return {'FORMAT', raw}
  end
  raws[i], sentinels[i] = raw, sentinel
end

local function free(lease)
  local gone = not lease[1] or lease[1] == '' or lease[3] == '1'
  local still = ARGV[7] ~= '' and lease[2] == ARGV[7] and lease[4] == ARGV[8]
  return gone or still
end

local known = sentinels[2] or sentinels[3]
if known and known.owner ~= ARGV[5] then
  if known.owner ~= ARGV[6] then
    return {'OWNED', known.owner, false}
  end
  local lease = redis.call('HMGET', KEYS[4], 'holder', 'token', 'resigned', 'renewal', 'ttl')
  if not free(lease) then
    return {'OWNED', known.owner, lease[1], lease[2] or '', lease[4] or '', lease[5] or ''}
  end
end

-- The pause with the higher number came later, and its end comes after itself.
local function later_pause(one, other)
  if not (one and other) then
    return one or other
  end
  local a, b = tonumber(one.number), tonumber(other.number)
  if a == b then
    return one.on and other or one
  end
  return a > b and one or other
end

local pause = later_pause(
  sentinels[2] and sentinels[2].pause, sentinels[3] and sentinels[3].pause)
if ARGV[10] ~= '' then
  local memory = {number = ARGV[10], ends = ARGV[11], on = ARGV[12] == '2'}
  pause = later_pause(pause, memory)
end
end_pause(pause)

-- A mark says that nothing was set back since it was written.
local partial = ARGV[9] == ''
local mark = ARGV[9]
if not partial and known and raws[2] == raws[3] and known.mark ~= '' then
  mark = known.mark
end
local sentinel = compose_sentinel(ARGV[3], '0', '', ARGV[5], partial, mark, pause)
redis.call('HSET', KEYS[2], SENTINEL, sentinel)
redis.call('HSET', KEYS[3], SENTINEL, sentinel)
local fields = {redis.call('HLEN', KEYS[2]) - 1, redis.call('HLEN', KEYS[3]) - 1}
return {ok(pause, ''), raws[2], raws[3], fields[1], fields[2], mark, server_epoch() or ''}
