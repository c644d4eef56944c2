-- guard: what every script of a leader begins with (not adopt, and not accept, which workers run).
-- Put after sentinel and before the script, never run alone.
--
-- KEYS[1] lease record of the election, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1] holder, ARGV[2] fencing token.
-- ARGV[3] generation, ARGV[4] lowest step that the ledger may be at, ARGV[5] step of this write,
-- ARGV[6] mark with which the ledger becomes whole; or empty: the state stays as it is found.
-- RETURNS (look, guard) nil when the write may go on, or what the script has to answer.
-- TIME is read where a script says so, and for a pause with an end; it never decides who leads.

-- The sentinel that look() found.
local state

-- Runs and claims begin with their moment, in microseconds.
local function moment_of(value)
  return value and tonumber(string.match(value, '^%-?%d+'))
end

-- A step below ARGV[4] is an older copy of the ledger; one from ARGV[5] on means that this is a
-- late copy of a request that the leader has long given up. Both hashes are always written together.
local function is_as_left(runs, pending)
  state = runs == pending and parse_sentinel(runs)
  if not state or state.generation ~= ARGV[3] then
    return false
  end
  local step = tonumber(state.step)
  return step >= tonumber(ARGV[4]) and step < tonumber(ARGV[5])
end

-- Reads only.
local function look()
  local refusal = fence()
  if refusal then
    return refusal
  end
  local runs = redis.call('HGET', KEYS[2], SENTINEL)
  local pending = redis.call('HGET', KEYS[3], SENTINEL)
  if not is_as_left(runs, pending) then
    return {'GENERATION', runs or '', pending or ''}
  end
  end_pause(state.pause)
  return nil
end

-- Which steps were executed since the last one that was answered, with this one: `3-5,7-8`; empty
-- if it is this one alone. If a hash is lost now, they are all that shows what was executed.
local function executed_steps()
  if state.step == ARGV[4] then
    return ''
  end
  local steps = state.steps ~= '' and state.steps or state.step .. '-' .. state.step
  local before, last = string.match(steps, '^(.-)(%d+)$')
  if tonumber(last) + 1 == tonumber(ARGV[5]) then
    return before .. ARGV[5]
  end
  return steps .. ',' .. ARGV[5] .. '-' .. ARGV[5]
end

-- Leave the sentinel of this write, with this mark as in ARGV[6]. Comes before any other write: a
-- server that is out of memory, cannot save or is a replica refuses the first one, and that must be
-- one that raises.
local function leave(mark)
  if mark ~= '' then
    state.mark, state.partial = mark, false
  end
  state.steps = executed_steps()
  local left = compose_sentinel(
    ARGV[3], ARGV[5], state.steps, state.owner, state.partial, state.mark, state.pause)
  redis.call('HSET', KEYS[2], SENTINEL, left)
  redis.call('HSET', KEYS[3], SENTINEL, left)
end

local function guard()
  local refusal = look()
  if not refusal then
    leave(ARGV[6])
  end
  return refusal
end

local function status()
  return ok(state.pause, state.steps)
end
