-- What answers say of a resignation over another connection: a standby that saw the record before it
-- over its own knows that it was on this server.
local ELSEWHERE = 2

-- The epoch of a server as one connection knows it: put before the scripts where INFO is denied.
--
-- The last of ARGV is the connection's label, which no other connection ever has. The server of a
-- connection stays the same process, and whoever makes another server the master cuts it. So what
-- was seen under this label was seen on this server, and what was seen before does not count.
-- The last of KEYS is the witness. Removing it does nothing but fail on a replica: what a replica
-- shows may be old, and be shown again once it is a master.
local function server_epoch()
  local removed = redis.pcall('DEL', KEYS[#KEYS])
  if type(removed) == 'table' then
    -- Redis 6 puts the code of an error in a script behind other words.
    local readonly = string.find(removed.err, 'READONLY') and 'READONLY ' or ''
    return nil, redis.error_reply(readonly .. removed.err)
  end
  return ARGV[#ARGV], nil
end
