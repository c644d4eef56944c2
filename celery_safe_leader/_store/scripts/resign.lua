-- resign: give the record up and wake a few standbys.
-- KEYS[1] lease  KEYS[2] history  KEYS[3] wake
-- ARGV candidate id, token, nonce, reason; or in addition 'to' and the id of the candidate that the
--      others let go first
-- RETURNS 'resigned' or 'rejected', and the record
-- TIME dates the history
local epoch, problem = server_epoch()
if problem then return problem end
local record = read(KEYS[1], epoch)
if not record then
  return { 'rejected', '', epoch, '', '0', '0', 0 }
end
-- Not a record that was inherited from another server: its holder may have been succeeded there.
if record.holder ~= ARGV[1] or digits(record.token) ~= ARGV[2] or record.epoch ~= epoch then
  return answer('rejected', record, epoch)
end
if not record.resigned then
  local to = ARGV[5] == 'to'
  if to then
    redis.call('HSET', KEYS[1], 'resigned', '1', 'successor', ARGV[6])
  else
    redis.call('HSET', KEYS[1], 'resigned', '1')
  end
  tell(KEYS[2], 'resigned', ARGV[1], record.token, ARGV[4])
  -- Three, not all: a thousand standbys that campaign at once would cost more than they gain, and
  -- a single one may be stopped or dead. The rest observe again within their own wait.
  -- In somebody's favour only one campaigns, and it has to be among those that are woken.
  for _ = 1, to and 13 or 1 do
    redis.call('RPUSH', KEYS[3], '1', '1', '1')
  end
  redis.call('LTRIM', KEYS[3], to and '-39' or '-3', '-1')
  redis.call('PEXPIRE', KEYS[3], '60000')
end
return answer('resigned', read(KEYS[1], epoch), epoch)
