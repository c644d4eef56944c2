-- publish: put messages into their queues, and record their runs as done.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending; then all lists and other keys that ARGV
-- names by their index in KEYS.
-- ARGV[1..6] as in guard. ARGV[7] slack in microseconds, ARGV[8] latest moment of all runs,
-- ARGV[9] number of runs n, ARGV[10] number of groups, ARGV[11] index of running or 0, ARGV[12]
-- index of versions or 0; then n each: entries, the runs that they were computed from (empty:
-- none); then each entry and the run to record; then n messages (empty: none); with running, n each: policies of overlap
-- (S skip, Q queue one, empty allow), times to wait in microseconds, ids of the occurrences, the
-- runs to record where one is skipped; with versions, n each: the entry's version (empty: not a
-- stored entry).
-- Then the groups, neighbours that go to one list: index of the list (0: no message), number of
-- runs, number of keys to expire, and for each of those its index and milliseconds.
-- RETURNS {status, TIME in microseconds, a letter for each run, then for each run
--   refused its number and the error}, {PAUSED, number, end, TIME}, {FENCED, ...},
--   {GENERATION, sentinel of runs, sentinel of pending}.
--   C published and recorded (or was already), P a claim is pending, D the entry's run is not the
--   one that this one was computed from, A ahead of Redis's clock by more than the slack, V the
--   entry has another version, O the last run is not over (recorded, where the policy is to skip),
--   R the list refused the message.
-- TIME: a run later than TIME + slack is refused, so that a wrong clock cannot silence an entry;
-- and it ends marks in running.
--
-- Redis takes nothing back. So all reads come first, then the sentinel, whose write a sick server
-- refuses; then only what cannot raise: pcalls, and one HSET on the hash that was just written.
-- Written for speed, as write is.

local refusal = look()
if refusal then
  return refusal
end
local now = now_us()
local pause = state.pause
if pause and pause.on then
  return {'PAUSED', pause.number, pause.ends, now}
end

local ARGV, KEYS, pcall = ARGV, KEYS, redis.pcall
local n, groups = tonumber(ARGV[9]), tonumber(ARGV[10])
local running, versions = KEYS[tonumber(ARGV[11])], KEYS[tonumber(ARGV[12])]
local names, expected, records, messages = 12, 12 + n, 12 + 2 * n, 12 + 4 * n
local policies = 12 + 5 * n
local versions_at = policies + (running and 4 * n or 0)
local at = versions_at + (versions and n or 0)

local function read(key)
  if not key or n == 0 then
    return {}
  end
  return redis.call('HMGET', key, unpack(ARGV, names + 1, names + n))
end

local limit = now + tonumber(ARGV[7])
local any_ahead = tonumber(ARGV[8]) > limit
-- Nearly always nothing is pending, and then no field of it has to be looked up.
local held = redis.call('HLEN', KEYS[3]) > 1 and read(KEYS[3]) or {}
local done, marks, stored = read(KEYS[2]), read(running), read(versions)

-- False: it may go out.
local function obstacle(i)
  local stands = done[i] or ''
  if held[i] then
    return 'P'
  elseif stands ~= ARGV[expected + i] then
    if running and ARGV[policies + i] == 'S' and stands == ARGV[policies + 3 * n + i] then
      return 'O'
    end
    return stands == ARGV[records + 2 * i] and 'C' or 'D'
  elseif any_ahead and moment_of(ARGV[records + 2 * i]) > limit then
    return 'A'
  elseif versions and ARGV[versions_at + i] ~= '' and stored[i] ~= ARGV[versions_at + i] then
    return 'V'
  elseif running and ARGV[policies + i] ~= ''
    and overlaps(marks[i], ARGV[policies + 2 * n + i], now) then
    return 'O'
  end
  return false
end

-- Nearly always all go out, and no table is needed.
local function are_all_plain()
  if any_ahead or running or versions then
    return false
  end
  for i = 1, n do
    if held[i] or done[i] ~= ARGV[expected + i] then
      return false
    end
  end
  return true
end

local letters, recorded, waiting, refused = {}, {}, {}, {}
local plain = are_all_plain()
if not plain then
  for i = 1, n do
    letters[i] = obstacle(i)
  end
end
leave(ARGV[6])

local function record(i, run)
  recorded[#recorded + 1] = ARGV[names + i]
  recorded[#recorded + 1] = run
end

-- Returns the error of the list, if it refuses the messages.
local function push(list, expiries, ...)
  if not list then
    return nil
  end
  local reply = pcall('LPUSH', list, ...)
  if type(reply) == 'table' and reply.err then
    return reply.err
  end
  for e = at + 4, at + 2 + 2 * expiries, 2 do
    pcall('PEXPIRE', KEYS[tonumber(ARGV[e])], ARGV[e + 1])
  end
  return nil
end

-- What was published waits in its queue from now on.
local function wait_for(i)
  waiting[#waiting + 1] = ARGV[names + i]
  waiting[#waiting + 1] =
    waiting_mark(nil, ARGV[policies + 2 * n + i], now, ARGV[policies + n + i])
end

local function refuse(i, err)
  letters[i] = 'R'
  refused[#refused + 1] = i
  refused[#refused + 1] = err
end

local function publish_plain(list, expiries, first, last)
  local err = push(list, expiries, unpack(ARGV, messages + first, messages + last))
  for i = first, err and last or 0 do
    refuse(i, err)
  end
end

local function publish_accepted(list, expiries, first, last)
  local accepted, values = {}, {}
  for i = first, last do
    if not letters[i] then
      letters[i] = 'C'
      accepted[#accepted + 1] = i
      values[#values + 1] = ARGV[messages + i]
    elseif letters[i] == 'O' and ARGV[policies + i] == 'S' then
      record(i, ARGV[policies + 3 * n + i])
    end
  end
  local err = #accepted > 0 and push(list, expiries, unpack(values))
  for _, i in ipairs(accepted) do
    if err then
      refuse(i, err)
    else
      record(i, ARGV[records + 2 * i])
      if running and list and ARGV[policies + i] ~= '' then
        wait_for(i)
      end
    end
  end
end

local first = 1
for _ = 1, groups do
  local count, expiries = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local publish = plain and publish_plain or publish_accepted
  publish(KEYS[tonumber(ARGV[at + 1])], expiries, first, first + count - 1)
  first = first + count
  at = at + 3 + 2 * expiries
end
if plain and #refused == 0 then
  if n > 0 then
    redis.call('HSET', KEYS[2], unpack(ARGV, records + 1, records + 2 * n))
  end
  return {status(), now, string.rep('C', n)}
end
for i = 1, plain and n or 0 do
  if not letters[i] then
    letters[i] = 'C'
    record(i, ARGV[records + 2 * i])
  end
end
if #recorded > 0 then
  redis.call('HSET', KEYS[2], unpack(recorded))
end
if #waiting > 0 then
  pcall('HSET', running, unpack(waiting))
end
return {status(), now, table.concat(letters), unpack(refused)}
