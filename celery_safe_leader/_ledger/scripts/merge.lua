-- merge: write the leader's memory back into a ledger that was lost, in part, or set back.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1..6] as in guard; then for each entry: entry, run (empty: none), claim (empty: none).
-- RETURNS {status, run where Redis knew a later one or empty, claim where Redis knew one that stands
--   instead or empty, ...}, {FENCED, ...}, {GENERATION, ...}.
-- TIME none. For each entry the later run wins; of the claims later than that run, the later one,
-- and the memory's among equals, since that is the one which its leader will commit.

local refusal = guard()
if refusal then
  return refusal
end

local names = {}
for i = 7, #ARGV, 3 do
  names[#names + 1] = ARGV[i]
end
local runs = redis.call('HMGET', KEYS[2], unpack(names))
local claims = redis.call('HMGET', KEYS[3], unpack(names))

local function later(stored, memory)
  local there, here = moment_of(stored), moment_of(memory)
  if there and (not here or there > here) then
    return stored
  end
  return here and memory or nil
end

local new_runs, new_claims, removed, answer = {}, {}, {}, {status()}
for n, name in ipairs(names) do
  local run = later(runs[n], ARGV[3 * n + 5])
  local claim = later(claims[n], ARGV[3 * n + 6])
  if claim and run and moment_of(claim) <= moment_of(run) then
    claim = nil
  end
  if run and run ~= runs[n] then
    new_runs[#new_runs + 1] = name
    new_runs[#new_runs + 1] = run
  end
  if claim and claim ~= claims[n] then
    new_claims[#new_claims + 1] = name
    new_claims[#new_claims + 1] = claim
  elseif claims[n] and not claim then
    removed[#removed + 1] = name
  end
  answer[#answer + 1] = run ~= ARGV[3 * n + 5] and run or ''
  answer[#answer + 1] = claim ~= ARGV[3 * n + 6] and claim or ''
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
return answer
