-- Shared by the scripts that carry what a candidate says of itself: put before them.
--
-- For people alone: nothing is decided by it. All of it is by pcall, and after the lease was written:
-- whatever the hash holds, and whatever the server refuses, costs no lease.

-- Remove a few of those who have said nothing for long, from a cursor on.
-- Returns the next cursor, and what the server refused, if it did.
local function prune(key, cursor, now_us, longest_ttl)
  local life_us = 1000 * math.max(600000, 10 * tonumber(longest_ttl))
  local scanned = redis.pcall('HSCAN', key, cursor, 'COUNT', '16')
  if scanned.err then
    return '0', scanned.err
  end
  local fields, old = scanned[2], {}
  for place = 1, #fields, 2 do
    local seen = tonumber(string.match(fields[place + 1], '^(%d+) ') or '')
    -- One from the future: the clock was set back, or this is another server.
    if not (seen and math.abs(now_us - seen) <= life_us) then
      old[#old + 1] = fields[place]
    end
  end
  local removed = #old > 0 and redis.pcall('HDEL', key, unpack(old))
  return scanned[1], type(removed) == 'table' and removed.err or nil
end

-- Write what a candidate says, after the moment.
-- With a cursor, also remove a few of those who say no more, and let an abandoned key go one day.
-- Returns the next cursor, an empty text without one, or what the server refused.
local function announce(key, me, text, cursor, longest_ttl)
  local now = redis.call('TIME')
  local value = now[1] .. string.format('%06d', now[2]) .. ' ' .. text
  local written = redis.pcall('HSET', key, me, value)
  if type(written) == 'table' and string.find(written.err, 'WRONGTYPE') then
    redis.pcall('DEL', key)
    written = redis.pcall('HSET', key, me, value)
  end
  if type(written) == 'table' then
    return string.sub(written.err, 1, 200)
  end
  if cursor == '' then
    return ''
  end
  local life = math.max(604800000, 10 * tonumber(longest_ttl))
  local kept = redis.pcall('PEXPIRE', key, string.format('%.0f', life))
  local next_cursor, refused = prune(key, cursor, tonumber(now[1]) * 1000000 + tonumber(now[2]),
    longest_ttl)
  refused = refused or type(kept) == 'table' and kept.err
  return refused and string.sub(refused, 1, 200) or next_cursor
end
