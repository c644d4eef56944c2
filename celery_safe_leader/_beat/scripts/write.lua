-- write: commit one batch and claim the next, in one round trip.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1..6] as in guard. ARGV[7] slack in microseconds, ARGV[8] number of commits; then for each
-- commit: entry, claim as it was written, run to record; then for each claim: entry, claim.
-- RETURNS {OK, TIME in microseconds, a letter for each commit, a letter for each claim},
--   {FENCED, ...}, {GENERATION, sentinel of runs, sentinel of pending}.
--   Commits: C committed (or was already), D the entry's claim is not this one.
--   Claims: C claimed (or was already), P another claim is pending, L not later than the last
--   committed moment, A ahead of Redis's clock by more than the slack, U the run is unreadable.
-- TIME: a claim later than TIME + slack is refused, so that a wrong clock cannot silence an entry.

local refusal = guard()
if refusal then
  return refusal
end

local now = now_us()
local limit = now + tonumber(ARGV[7])
local claims_at = 9 + 3 * tonumber(ARGV[8])
if #ARGV < 9 then
  return {'OK', now, '', ''}
end

local names = {}
for i = 9, claims_at - 1, 3 do
  names[#names + 1] = ARGV[i]
end
for i = claims_at, #ARGV, 2 do
  names[#names + 1] = ARGV[i]
end
local runs, pending = {}, {}
local run_values = redis.call('HMGET', KEYS[2], unpack(names))
local claim_values = redis.call('HMGET', KEYS[3], unpack(names))
for i, name in ipairs(names) do
  runs[name], pending[name] = run_values[i], claim_values[i]
end

local new_runs, removed, new_claims = {}, {}, {}

local function commit(name, claim, run)
  local last = moment_of(runs[name])
  local behind = not last or last < moment_of(claim)
  if pending[name] ~= claim then
    return (runs[name] == run) and 'C' or 'D'
  end
  pending[name] = false
  removed[#removed + 1] = name
  if behind then
    runs[name] = run
    new_runs[#new_runs + 1] = name
    new_runs[#new_runs + 1] = run
  end
  return 'C'
end

local function claim(name, value)
  local held, last, moment = pending[name], moment_of(runs[name]), moment_of(value)
  if held then
    return held == value and 'C' or 'P'
  elseif runs[name] and not last then
    return 'U'
  elseif last and moment <= last then
    return 'L'
  elseif moment > limit then
    return 'A'
  end
  pending[name] = value
  new_claims[#new_claims + 1] = name
  new_claims[#new_claims + 1] = value
  return 'C'
end

local committed, claimed = {}, {}
for i = 9, claims_at - 1, 3 do
  committed[#committed + 1] = commit(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
for i = claims_at, #ARGV, 2 do
  claimed[#claimed + 1] = claim(ARGV[i], ARGV[i + 1])
end

if #removed > 0 then
  redis.call('HDEL', KEYS[3], unpack(removed))
end
if #new_runs > 0 then
  redis.call('HSET', KEYS[2], unpack(new_runs))
end
if #new_claims > 0 then
  redis.call('HSET', KEYS[3], unpack(new_claims))
end
return {'OK', now, table.concat(committed), table.concat(claimed)}
