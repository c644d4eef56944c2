-- observe: read the record; where there is none, write a vacancy first.
-- KEYS[1] lease, then the witness if it is written, then the presences if the candidate says something
-- ARGV nonce, longest ttl in ms, highest token known, '1' to write the witness; or in addition the
--      candidate's id, what it says of itself, and where to prune, if that
-- RETURNS 'seen' and the record; then what became of what the candidate says
-- TIME names a vacancy, and says when the candidate was seen
local epoch, problem = server_epoch()
if problem then return problem end
local record = read_or_vacate(KEYS[1], epoch, ARGV[1], ARGV[2], ARGV[3])
if ARGV[4] == '1' then
  redis.call('SET', KEYS[2], fresh(ARGV[1]), 'PX', digits(math.max(60000, 2 * tonumber(ARGV[2]))))
end
local reply = answer('seen', record, epoch)
if ARGV[6] then
  reply[#reply + 1] = announce(KEYS[ARGV[4] == '1' and 3 or 2], ARGV[5], ARGV[6], ARGV[7], ARGV[2])
end
return reply
