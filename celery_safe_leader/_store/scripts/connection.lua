-- What answers report for a resignation that came over another connection. A standby that saw the
-- record before over its own connection knows that it was resigned on this server.
local ELSEWHERE = 2

-- The epoch of a server as one connection knows it. Put before the scripts if INFO is denied.
--
-- The last of ARGV is the connection's label, which no other connection ever has. The server of a
-- connection stays the same process, and whoever makes another server the master cuts it. So what
-- was seen under this label was seen on this server, and what was seen before does not count.
-- The last of KEYS is the witness. Removing it only serves to fail on a replica: what a replica
-- shows may be old, and may be shown again once it is a master.
local function server_epoch()
  local removed = redis.pcall('DEL', KEYS[#KEYS])
  if type(removed) == 'table' then
    -- In a script, Redis 6 puts other words before the code of an error.
    local readonly = string.find(removed.err, 'READONLY') and 'READONLY ' or ''
    return nil, redis.error_reply(readonly .. removed.err)
  end
  return ARGV[#ARGV], nil
end
