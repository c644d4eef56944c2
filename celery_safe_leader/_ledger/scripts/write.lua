-- write: commit one batch and claim the next, in one round trip.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending.
-- ARGV[1..6] as in guard. ARGV[7] slack in microseconds, ARGV[8] latest moment of all claims,
-- ARGV[9] number of commits n, ARGV[10] number of claims m; then the entries of the commits, their
-- claims as they were written, the runs to record, n each; then the entries of the claims, the
-- claims, the runs that they were computed from (empty: none), m each.
-- RETURNS {OK, TIME in microseconds, a letter for each commit, a letter for each claim},
--   {FENCED, ...}, {GENERATION, sentinel of runs, sentinel of pending}.
--   Commits: C committed (or was already), D the entry's claim is not this one.
--   Claims: C claimed (or was already), P another claim is pending, D the entry's run is not the
--   one that the claim was computed from, A ahead of Redis's clock by more than the slack.
-- TIME: a claim later than TIME + slack is refused, so that a wrong clock cannot silence an entry.
--
-- Redis serves nobody else meanwhile, so this is written for speed: few commands of many fields,
-- and no number is parsed unless a claim is refused for it.

local refusal = guard()
if refusal then
  return refusal
end

local ARGV = ARGV
local n, m = tonumber(ARGV[9]), tonumber(ARGV[10])
local now = now_us()
local limit = now + tonumber(ARGV[7])

local function commit(names, claims, runs)
  local held = redis.call('HMGET', KEYS[3], unpack(ARGV, names + 1, names + n))
  local letters, removed, recorded, r = {}, {}, {}, 0
  for i = 1, n do
    local name, run = ARGV[names + i], ARGV[runs + i]
    if held[i] == ARGV[claims + i] then
      r = r + 1
      removed[r], recorded[2 * r - 1], recorded[2 * r] = name, name, run
      letters[i] = 'C'
    else
      letters[i] = redis.call('HGET', KEYS[2], name) == run and 'C' or 'D'
    end
  end
  if r > 0 then
    redis.call('HDEL', KEYS[3], unpack(removed))
    redis.call('HSET', KEYS[2], unpack(recorded))
  end
  return table.concat(letters)
end

local function claim(names, claims, runs)
  local held = redis.call('HMGET', KEYS[3], unpack(ARGV, names + 1, names + m))
  local found = redis.call('HMGET', KEYS[2], unpack(ARGV, names + 1, names + m))
  local any_ahead = tonumber(ARGV[8]) > limit
  local letters, written, w = {}, {}, 0
  for i = 1, m do
    local value = ARGV[claims + i]
    if held[i] then
      letters[i] = held[i] == value and 'C' or 'P'
    elseif (found[i] or '') ~= ARGV[runs + i] then
      letters[i] = 'D'
    elseif any_ahead and moment_of(value) > limit then
      letters[i] = 'A'
    else
      written[w + 1], written[w + 2] = ARGV[names + i], value
      w = w + 2
      letters[i] = 'C'
    end
  end
  if w > 0 then
    redis.call('HSET', KEYS[3], unpack(written))
  end
  return table.concat(letters)
end

-- Commits first: an entry may be in both.
local committed = n > 0 and commit(10, 10 + n, 10 + 2 * n) or ''
local claims_at = 10 + 3 * n
local claimed = m > 0 and claim(claims_at, claims_at + m, claims_at + 2 * m) or ''
return {'OK', now, committed, claimed}
