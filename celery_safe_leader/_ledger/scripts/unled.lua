-- unled: what scripts begin with that change a whole ledger at the wish of people, whoever leads.
-- Put after sentinel and before the script, never run alone.

-- The state of a ledger that no leader publishes from; or nil and what the script has to answer.
-- A ledger without sentinels has the state false.
local function unled(runs, pending, newest)
  if runs == '' and pending == '' then
    return false
  elseif runs ~= pending then
    return nil, {'TORN'}
  end
  local state = parse_sentinel(runs)
  if not state or tonumber(state.format) > tonumber(newest) then
    return nil, {'FORMAT', runs}
  elseif state.partial then
    return nil, {'PARTIAL'}
  elseif state.mark == '' then
    return nil, {'UNMARKED'}
  end
  end_pause(state.pause)
  return state
end

local function is_paused(state)
  return state and state.pause and state.pause.on
end

-- Redis takes nothing back: whoever lacks a right to these keys has to be refused before the first
-- change. No entry can have this name either.
local function try_rights(...)
  for _, key in ipairs({...}) do
    redis.call('HDEL', key, '\255none')
  end
end
