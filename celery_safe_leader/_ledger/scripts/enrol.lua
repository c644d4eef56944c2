-- enrol: write runs of new entries, changed schedules and moments to be brought back.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1..6] as in guard; then for each entry: entry, run expected (empty: none), run to write.
-- RETURNS {status, a letter for each entry}, {FENCED, ...}, {GENERATION, ...}.
--   W written (or was already), D the run is not the expected one.
-- TIME none.

local refusal = guard()
if refusal then
  return refusal
end

local names = {}
for i = 7, #ARGV, 3 do
  names[#names + 1] = ARGV[i]
end
local found = redis.call('HMGET', KEYS[2], unpack(names))

local letters, written = {}, {}
for n, name in ipairs(names) do
  local expected, run = ARGV[3 * n + 5], ARGV[3 * n + 6]
  if (found[n] or '') == expected then
    written[#written + 1] = name
    written[#written + 1] = run
    letters[n] = 'W'
  else
    letters[n] = found[n] == run and 'W' or 'D'
  end
end
if #written > 0 then
  redis.call('HSET', KEYS[2], unpack(written))
end
return {status(), table.concat(letters)}
