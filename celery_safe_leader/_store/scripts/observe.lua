-- observe: read the record; where there is none, write a vacancy first.
-- KEYS[1] lease  KEYS[2] witness
-- ARGV nonce, longest ttl in ms, highest token known, '1' to write the witness
-- RETURNS 'seen' and the record
-- TIME names a vacancy
local epoch, problem = server_epoch()
if problem then return problem end
local record = read_or_vacate(KEYS[1], epoch, ARGV[1], ARGV[2], ARGV[3])
if ARGV[4] == '1' then
  redis.call('SET', KEYS[2], fresh(ARGV[1]), 'PX', digits(math.max(60000, 2 * tonumber(ARGV[2]))))
end
return answer('seen', record, epoch)
