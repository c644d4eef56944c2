-- accept: may a message with this nonce run? The first publication of an occurrence wins.
--
-- KEYS[1] acceptance record of the occurrence, KEYS[2] its mark of a second attempt.
-- ARGV[1] nonce of the publication, ARGV[2] window in milliseconds, ARGV[3] long life in ms.
-- RETURNS {letter, nonce recorded}: F first, S the same publication again, O another one ran.
-- TIME none. Not fenced: workers ask, whoever leads.

local recorded = redis.call('GET', KEYS[1])
if recorded then
  return {recorded == ARGV[1] and 'S' or 'O', recorded}
end
local life = redis.call('EXISTS', KEYS[2]) == 1 and ARGV[3] or ARGV[2]
redis.call('SET', KEYS[1], ARGV[1], 'PX', life)
return {'F', ARGV[1]}
