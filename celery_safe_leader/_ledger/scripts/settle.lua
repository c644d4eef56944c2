-- settle: before an occurrence is attempted again, ask whether a publication of it was accepted.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending; then for each occurrence: its acceptance
-- record, its mark of a second attempt.
-- ARGV[1..6] as in guard. ARGV[7] life of mark and record in milliseconds; then for each
-- occurrence: entry, claim as it was written.
-- RETURNS {OK, a letter for each occurrence, nonce accepted or empty, ...}, {FENCED, ...},
--   {GENERATION, ...}. A accepted, N no publication accepted so far, D the claim is not pending.
-- TIME none. A late copy of an occurrence that was attempted again meets a record of long life:
-- the mark makes the worker give it one, and here a record that exists already gets it.

local refusal = guard()
if refusal then
  return refusal
end

local names = {}
for i = 8, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
end
local held = redis.call('HMGET', KEYS[3], unpack(names))
local records = {}
for n = 1, #names do
  records[n] = KEYS[2 + 2 * n]
end
local accepted = redis.call('MGET', unpack(records))

local letters, answer = {}, {'OK', ''}
for n = 1, #names do
  local nonce = accepted[n]
  answer[n + 2] = nonce or ''
  if held[n] ~= ARGV[7 + 2 * n] then
    letters[n] = 'D'
  else
    redis.call('SET', KEYS[3 + 2 * n], '1', 'PX', ARGV[7])
    if nonce then
      redis.call('PEXPIRE', records[n], ARGV[7])
    end
    letters[n] = nonce and 'A' or 'N'
  end
end
answer[2] = table.concat(letters)
return answer
