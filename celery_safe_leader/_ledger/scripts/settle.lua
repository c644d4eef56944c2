-- settle: before an occurrence is attempted again, ask whether a publication of it was accepted.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending; then for each occurrence: its acceptance
-- record, its mark of a second attempt; then running, where needed.
-- ARGV[1..6] as in guard. ARGV[7] life of mark and record in milliseconds, ARGV[8] index of running
-- in KEYS or 0; then for each occurrence: entry, claim as it was written, its id, the microseconds
-- that its message waits (0: its entry may overlap).
-- RETURNS {status, a letter for each occurrence, nonce accepted or empty, ...}, {FENCED, ...},
--   {GENERATION, ...}. A accepted, N no publication accepted so far, D the claim is not pending.
-- TIME marks what is published again as waiting. A late copy of an occurrence that was attempted again meets a record of long life:
-- the mark makes the worker give it one, and here a record that exists already gets it.

local refusal = guard()
if refusal then
  return refusal
end

local names = {}
for i = 9, #ARGV, 4 do
  names[#names + 1] = ARGV[i]
end
local running = KEYS[tonumber(ARGV[8])]
local marks = running and redis.call('HMGET', running, unpack(names)) or {}
local held = redis.call('HMGET', KEYS[3], unpack(names))
local records = {}
for n = 1, #names do
  records[n] = KEYS[2 + 2 * n]
end
local accepted = redis.call('MGET', unpack(records))

local letters, answer = {}, {status(), ''}
for n = 1, #names do
  local nonce = accepted[n]
  answer[n + 2] = nonce or ''
  if held[n] ~= ARGV[6 + 4 * n] then
    letters[n] = 'D'
  else
    redis.call('SET', KEYS[3 + 2 * n], '1', 'PX', ARGV[7])
    if nonce then
      redis.call('PEXPIRE', records[n], ARGV[7])
    end
    letters[n] = nonce and 'A' or 'N'
    if not nonce and ARGV[8 + 4 * n] ~= '0' then
      local mark = waiting_mark(marks[n], ARGV[7 + 4 * n], now_us(), ARGV[8 + 4 * n])
      redis.call('HSET', running, names[n], mark)
    end
  end
end
answer[2] = table.concat(letters)
return answer
