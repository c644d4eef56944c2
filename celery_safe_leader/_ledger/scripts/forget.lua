-- forget: note which entries the leader does not know, and drop those that no leader has known
-- for the grace period.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending, KEYS[4] unknown.
-- ARGV[1..6] as in guard. ARGV[7] grace in microseconds (0 forgets at once), ARGV[8] number of
-- entries not known, ARGV[9] what ARGV[6] is if an entry goes; then these entries, then those that
-- are known and may be marked.
-- RETURNS {status, a letter for each entry not known}, {FENCED, ...}, {GENERATION, ...}.
--   M marked now, W waiting for the end of the grace period, F forgotten, P forgotten with a claim
--   that was never published.
-- TIME: marks the moment from which no leader has known an entry, since leaders' clocks differ.

local refusal = look()
if refusal then
  return refusal
end

local known_at = 10 + tonumber(ARGV[8])
local names, known = {}, {}
for i = 10, known_at - 1 do
  names[#names + 1] = ARGV[i]
end
for i = known_at, #ARGV do
  known[#known + 1] = ARGV[i]
end
local now, grace = now_us(), tonumber(ARGV[7])
local since, claims = {}, {}
if #names > 0 then
  since = redis.call('HMGET', KEYS[4], unpack(names))
  claims = redis.call('HMGET', KEYS[3], unpack(names))
end
local letters, marked, dropped = {}, {}, {}
for n, name in ipairs(names) do
  local mark = tonumber(since[n] or '')
  local ended = grace == 0 or (mark and now - mark >= grace)
  if ended then
    dropped[#dropped + 1] = name
    letters[n] = claims[n] and 'P' or 'F'
  elseif not mark or mark > now then
    marked[#marked + 1] = name
    marked[#marked + 1] = string.format('%.0f', now)
    letters[n] = 'M'
  else
    letters[n] = 'W'
  end
end
leave(#dropped > 0 and ARGV[9] or '')
if #known > 0 then
  redis.call('HDEL', KEYS[4], unpack(known))
end
if #marked > 0 then
  redis.call('HSET', KEYS[4], unpack(marked))
end
if #dropped > 0 then
  for i = 2, 4 do
    redis.call('HDEL', KEYS[i], unpack(dropped))
  end
end
return {status(), table.concat(letters)}
