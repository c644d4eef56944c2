-- guard: what every script of a leader begins with (not accept, which workers run). Put before the script, never run alone.
--
-- KEYS[1] lease record of the election, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1] holder, ARGV[2] fencing token.
-- ARGV[3] generation, ARGV[4] lowest step that the ledger may be at, ARGV[5] step of this write,
-- ARGV[6] sentinel to leave behind (not for adopt).
-- RETURNS (fence, guard) nil when the write may go on, or what the script has to answer.
-- TIME is read where a script says so, and decides nothing about who leads.

-- Entry names are UTF-8, in which the byte 255 does not occur: no entry can have this name.
local SENTINEL = '\255ledger'

-- format, generation, step, state, owner; the format is the first field in every release.
local function parse_sentinel(raw)
  return string.match(raw or '', '^(%d+) (%S+) (%d+) (%S+) (.*)$')
end

-- Runs and claims begin with their moment, in microseconds.
local function moment_of(value)
  return value and tonumber(string.match(value, '^%-?%d+'))
end

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function fence()
  local lease = redis.call('HMGET', KEYS[1], 'holder', 'token', 'resigned')
  if lease[1] == ARGV[1] and lease[2] == ARGV[2] and lease[3] == '0' then
    return nil
  end
  return {'FENCED', lease[1] or '', lease[2] or '', lease[3] or ''}
end

-- A step below ARGV[4] is an older copy of the ledger; one from ARGV[5] on means that this is a
-- late copy of a request that the leader has long given up.
local function at_step(raw)
  local _, generation, step = parse_sentinel(raw)
  if generation ~= ARGV[3] then
    return false
  end
  step = tonumber(step)
  return step >= tonumber(ARGV[4]) and step < tonumber(ARGV[5])
end

local function guard()
  local refusal = fence()
  if refusal then
    return refusal
  end
  local runs = redis.call('HGET', KEYS[2], SENTINEL)
  local pending = redis.call('HGET', KEYS[3], SENTINEL)
  if not (at_step(runs) and at_step(pending)) then
    return {'GENERATION', runs or '', pending or ''}
  end
  redis.call('HSET', KEYS[2], SENTINEL, ARGV[6])
  redis.call('HSET', KEYS[3], SENTINEL, ARGV[6])
  return nil
end
