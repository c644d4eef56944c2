local ELSEWHERE = 0 -- what answers report for a resignation that came from another server

-- The epoch of a server: its run_id, which changes with the process, and its master_replid, which
-- changes with each promotion. Put before the scripts if the user may run INFO.
--
-- Returns the epoch, or nil and an error reply if it is unknown. Without it nobody may lead.
local function server_epoch()
  local replication = redis.pcall('INFO', 'replication')
  if type(replication) == 'table' then
    -- Whatever the server's message is: INFO fails only if it is denied.
    return nil, redis.error_reply('NOINFO ' .. tostring(replication.err))
  end
  local role = string.match(replication, 'role:([^\r\n]*)')
  if role ~= 'master' then
    return nil, redis.error_reply('READONLY not a master but ' .. tostring(role)
      .. ': only a master can keep an election')
  end
  local replid = string.match(replication, 'master_replid:([^\r\n]*)')
  local run_id = string.match(redis.call('INFO', 'server'), 'run_id:([^\r\n]*)')
  if not run_id or not replid then
    return nil, redis.error_reply('NOEPOCH INFO shows no run_id or no master_replid: a restart or '
      .. 'a failover of this server could not be noticed')
  end
  return run_id .. ':' .. replid, nil
end
