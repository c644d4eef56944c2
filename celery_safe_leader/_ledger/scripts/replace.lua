-- replace: put a staged ledger in the place of the present one. Put after sentinel and unled. Not
-- fenced: people ask, whoever leads.
--
-- KEYS[1] runs, KEYS[2] pending, KEYS[3] unknown, KEYS[4] and KEYS[5] runs and pending as staged,
-- KEYS[6] and KEYS[7] names that nobody has, for the present ones until they are freed.
-- ARGV[1] and ARGV[2] sentinels of runs and pending as they were when the present ledger was read
-- (empty: none), ARGV[3] new generation, ARGV[4] new mark, ARGV[5] election that the ledger belongs
-- to if there is none, ARGV[6] newest format known, ARGV[7] and ARGV[8] fields that were staged.
-- RETURNS {status}, {CHANGED}, {UNPAUSED}, {EXPIRED}, {TORN}, {PARTIAL}, {UNMARKED},
--   {FORMAT, sentinel}.
-- TIME ends a pause that has run out: then a leader may publish, and this is refused. Constant cost:
-- names are given, and the old ledger is freed beside.
--
-- Only an empty ledger, or one that is paused, is replaced. It is paused afterwards: what is in it
-- may be in another one as well, whose leader may not have been stopped.

local raws = {}
for i = 1, 2 do
  raws[i] = redis.call('HGET', KEYS[i], SENTINEL) or ''
  if raws[i] ~= ARGV[i] then
    return {'CHANGED'}
  end
end
local state, refusal = unled(raws[1], raws[2], ARGV[6])
if refusal then
  return refusal
end
local fields = 0
for i = 1, 2 do
  fields = fields + redis.call('HLEN', KEYS[i]) - (state and 1 or 0)
  if redis.call('HLEN', KEYS[3 + i]) ~= tonumber(ARGV[6 + i]) then
    return {'EXPIRED'}
  end
end
if fields > 0 and not is_paused(state) then
  return {'UNPAUSED'}
end

local pause = state and state.pause
if not is_paused(state) then
  local number = pause and tonumber(pause.number) or 0
  pause = {number = string.format('%.0f', number + 1), ends = '0', on = true}
end
local owner = state and state.owner or ARGV[5]
local sentinel = compose_sentinel(ARGV[3], '0', '', owner, false, ARGV[4], pause)
try_rights(KEYS[1], KEYS[2], KEYS[3])
for i = 4, 5 do
  redis.call('HSET', KEYS[i], SENTINEL, sentinel)
  redis.call('PERSIST', KEYS[i])
end
for i = 1, 2 do
  if redis.call('HLEN', KEYS[i]) > 0 then
    redis.call('RENAME', KEYS[i], KEYS[5 + i])
  end
  redis.call('RENAME', KEYS[3 + i], KEYS[i])
end
redis.call('UNLINK', KEYS[3], KEYS[6], KEYS[7])
return {ok(pause, '')}
