-- pause: let nobody publish or claim. Put after sentinel. Not fenced: people ask, whoever leads.
--
-- KEYS[1] runs, KEYS[2] pending.
-- ARGV[1] microseconds until it ends, 0 for no end; or 'resume': end it, or 'expire': end it if it
-- has run out. ARGV[2] newest format known.
-- RETURNS {status, claims that are pending}, {NONE}, {TORN}, {FORMAT, sentinel},
--   {UNMARKED, state}: the leader is of a release that would not obey, or restores the ledger.
-- TIME: ends a pause, so that clocks of machines need not agree. Generation and step stay, so that
-- no leader takes the ledger for lost; whoever leads meets the pause at the next write.

local raw = redis.call('HGET', KEYS[1], SENTINEL)
local other = redis.call('HGET', KEYS[2], SENTINEL)
if not raw and not other then
  return {'NONE'}
elseif raw ~= other then
  return {'TORN'}
end
local state = parse_sentinel(raw)
if not state or tonumber(state.format) > tonumber(ARGV[2]) then
  return {'FORMAT', raw}
end
local ends_only = ARGV[1] == 'resume' or ARGV[1] == 'expire'
if not ends_only and state.mark == '' then
  return {'UNMARKED', state.partial and 'partial' or 'whole'}
end

local was_on = state.pause and state.pause.on
end_pause(state.pause)
if ARGV[1] == 'resume' and state.pause then
  state.pause.on = false
elseif not ends_only then
  local number = state.pause and tonumber(state.pause.number) or 0
  local ends = ARGV[1] == '0' and 0 or now_us() + tonumber(ARGV[1])
  state.pause = {
    number = string.format('%.0f', number + 1), ends = string.format('%.0f', ends), on = true}
end
if was_on or (state.pause and state.pause.on) then
  local sentinel = compose_sentinel(
    state.generation, state.step, state.steps, state.owner, state.partial, state.mark, state.pause)
  redis.call('HSET', KEYS[1], SENTINEL, sentinel)
  redis.call('HSET', KEYS[2], SENTINEL, sentinel)
end
return {ok(state.pause, ''), redis.call('HLEN', KEYS[2]) - 1}
