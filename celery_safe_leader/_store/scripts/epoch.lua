local ELSEWHERE = 0 -- what answers report for a resignation that came from another server

-- The epoch of a server: its run_id, which changes with the process, and its master_replid, which
-- changes with each promotion. Put before the scripts if the user may run INFO.
--
-- Returns the epoch, or nil and an error reply. NOINFO and NOEPOCH: it cannot be known, and nothing
-- was done. The candidate asks again in another way then, see connection.lua.
local function server_epoch()
  local replication = redis.pcall('INFO', 'replication')
  if type(replication) == 'table' then
    -- Whatever the server's message is: INFO fails only if it is denied.
    return nil, redis.error_reply('NOINFO ' .. tostring(replication.err))
  end
  local role = string.match(replication, 'role:([^\r\n]*)')
  if role and role ~= 'master' then
    return nil, redis.error_reply('READONLY not a master but ' .. tostring(role)
      .. ': only a master can keep an election')
  end
  local replid = string.match(replication, 'master_replid:([^\r\n]*)')
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:([^\r\n]*)')
  if not role or not replid or not run_id then
    return nil, redis.error_reply('NOEPOCH role, master_replid or run_id')
  end
  return run_id .. ':' .. replid, nil
end
