-- rename: let an entry go on under another name. Put after sentinel and unled. Not fenced: people
-- ask, whoever leads.
--
-- KEYS[1] runs, KEYS[2] pending, KEYS[3] unknown.
-- ARGV[1] old name, ARGV[2] new name, ARGV[3] new generation, ARGV[4] new mark, ARGV[5] newest
-- format known.
-- RETURNS {status}, {NONE}, {UNPAUSED}, {MISSING}, {TAKEN}, {TORN}, {PARTIAL}, {UNMARKED},
--   {FORMAT, sentinel}.
--   TAKEN: an entry of the new name has run, or is about to. One that was only enrolled is replaced.
-- TIME ends a pause that has run out: then a leader may publish, and this is refused.

local runs = redis.call('HGET', KEYS[1], SENTINEL) or ''
local pending = redis.call('HGET', KEYS[2], SENTINEL) or ''
local state, refusal = unled(runs, pending, ARGV[5])
if refusal then
  return refusal
elseif not state then
  return {'NONE'}
elseif not is_paused(state) then
  return {'UNPAUSED'}
end

local run = redis.call('HGET', KEYS[1], ARGV[1])
local claim = redis.call('HGET', KEYS[2], ARGV[1])
if not run and not claim then
  return {'MISSING'}
end
-- An entry that has not run since it was enrolled has count 0, or was seen first at its moment.
local moment, count, seen = string.match(
  redis.call('HGET', KEYS[1], ARGV[2]) or '', '^(%S+) (%S+) (%S+) ')
if (moment and count ~= '0' and moment ~= seen) or redis.call('HGET', KEYS[2], ARGV[2]) then
  return {'TAKEN'}
end

try_rights(KEYS[1], KEYS[2], KEYS[3])
local sentinel = compose_sentinel(ARGV[3], '0', '', state.owner, false, ARGV[4], state.pause)
for i, value in ipairs({run, claim}) do
  redis.call('HSET', KEYS[i], SENTINEL, sentinel)
  if value then
    redis.call('HSET', KEYS[i], ARGV[2], value)
  else
    redis.call('HDEL', KEYS[i], ARGV[2])
  end
  redis.call('HDEL', KEYS[i], ARGV[1])
end
redis.call('HDEL', KEYS[3], ARGV[1], ARGV[2])
return {ok(state.pause, '')}
