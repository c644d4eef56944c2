-- campaign: take the record over if it still has the version that the candidate saw.
-- KEYS[1] lease  KEYS[2] history  KEYS[3] wake
-- ARGV version seen, candidate id, nonce, ttl in ms, longest ttl in ms, highest token known,
--      '1' to keep that token (the leader takes back what Redis lost)
-- RETURNS 'accepted' or 'rejected', and the record
-- TIME numbers the token and names the renewal
local epoch, problem = server_epoch()
if problem then return problem end
local record = read_or_vacate(KEYS[1], epoch, ARGV[3], ARGV[5], ARGV[6])
if record.version ~= ARGV[1] then
  return answer('rejected', record, epoch)
end
local keep = ARGV[7] == '1'
local token = token_of(ARGV[6])
if keep then
  if record.holder ~= '' or record.token > token then
    return answer('rejected', record, epoch)
  end
else
  token = math.max(record.token, token, now_ms()) + 1
end
if token >= 4503599627370496 then
  return redis.error_reply('NOTOKEN the fencing token of this election has reached 2^52 and cannot '
    .. 'grow: the record holds a token that no election made; stop all candidates, and delete the '
    .. 'key ' .. KEYS[1])
end
-- For people alone: since when the one before had been silent, by this server's clock.
local silent = ''
if not keep and record.holder ~= '' and not record.resigned and record.epoch == epoch then
  silent = 'silent:' .. string.match(redis.call('HMGET', KEYS[1], 'renewal')[1] or '', '%d*$')
end
record = write(KEYS[1], epoch, ARGV[2], token, fresh(ARGV[3]), tonumber(ARGV[4]))
redis.call('DEL', KEYS[3])
tell(KEYS[2], keep and 'restored' or 'elected', ARGV[2], token, silent)
return answer('accepted', record, epoch)
