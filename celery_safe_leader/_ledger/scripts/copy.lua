-- copy: read a piece of runs, together with what tells whether pieces belong to one ledger.
-- Put after epoch (of the election's scripts) and sentinel. Not fenced: standbys ask.
--
-- KEYS[1] runs, KEYS[2] pending.
-- ARGV[1] cursor of HSCAN and ARGV[2] its COUNT; or ARGV[1] empty, and then entries, perhaps none.
-- RETURNS {epoch of the server, or empty where it does not say or is not a master; sentinel of runs,
--   sentinel of pending, fields in runs, TIME in microseconds, next cursor or 0, what HSCAN or
--   HMGET returned}.
-- TIME shows runs that lie in the future. Writes nothing.
local epoch = server_epoch() or ''
local runs = redis.call('HGET', KEYS[1], SENTINEL)
local pending = redis.call('HGET', KEYS[2], SENTINEL)
local fields = redis.call('HLEN', KEYS[1]) - (runs and 1 or 0)
local cursor, found = '0', {}
if ARGV[1] ~= '' then
  cursor, found = unpack(redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]))
elseif #ARGV > 1 then
  found = redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
end
return {epoch, runs or '', pending or '', fields, string.format('%.0f', now_us()), cursor, found}
