-- renew: keep the record, if it is still the leader's own. Where Redis lost it, write a vacancy,
-- which the leader may take back in a second step.
-- KEYS[1] lease
-- ARGV candidate id, token, nonce, ttl in ms, longest ttl in ms
-- RETURNS 'accepted', 'vacant' or 'rejected', and the record
-- TIME names the renewal
local epoch, problem = server_epoch()
if problem then return problem end
local record, vacated = read_or_vacate(KEYS[1], epoch, ARGV[3], ARGV[5], ARGV[2])
if vacated then
  return answer('vacant', record, epoch)
end
if record.holder ~= ARGV[1] or digits(record.token) ~= ARGV[2] or record.resigned then
  return answer('rejected', record, epoch)
end
record = write(KEYS[1], epoch, ARGV[1], record.token, fresh(ARGV[3]), tonumber(ARGV[4]))
return answer('accepted', record, epoch)
