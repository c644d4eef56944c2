-- write: commit one batch and claim the next, in one round trip.
--
-- KEYS[1] lease record, KEYS[2] runs, KEYS[3] pending; then running and versions, where needed.
-- ARGV[1..6] as in guard. ARGV[7] slack in microseconds, ARGV[8] latest moment of all claims,
-- ARGV[9] number of commits n, ARGV[10] number of claims m; then the entries of the commits, their
-- claims as they were written, the runs to record, n each; then the entries of the claims, the
-- claims, the runs that they were computed from (empty: none), m each.
-- ARGV[11] index of running in KEYS or 0, ARGV[12] index of versions or 0; these come before the
-- entries. With running there follow n ids of occurrences whose marks are removed (empty: none),
-- and m policies of overlap, times to wait, ids of occurrences and runs to record where one is
-- skipped, as in publish; with versions m versions.
-- RETURNS {status, TIME in microseconds, a letter for each commit, a letter for each claim},
--   {FENCED, ...}, {GENERATION, sentinel of runs, sentinel of pending}.
--   Commits: C committed (or was already), D the entry's claim is not this one.
--   Claims: C claimed (or was already), P another claim is pending, D the entry's run is not the
--   one that the claim was computed from, A ahead of Redis's clock by more than the slack, S the
--   ledger is paused, V the entry has another version, O the last run is not over (recorded, where
--   the policy is to skip). A pause stops no commit.
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
local paused = state.pause and state.pause.on
local running, versions = KEYS[tonumber(ARGV[11])], KEYS[tonumber(ARGV[12])]
local ended_at = 12 + 3 * n + 3 * m
local policies = ended_at + n
local versions_at = ended_at + (running and n + 4 * m or 0)

-- A run that was given up waits for nobody.
local function unmark(names)
  local marks = redis.call('HMGET', running, unpack(ARGV, names + 1, names + n))
  local removed = {}
  for i = 1, n do
    if ARGV[ended_at + i] ~= '' and mark_of(marks[i], ARGV[ended_at + i]) then
      removed[#removed + 1] = ARGV[names + i]
    end
  end
  if #removed > 0 then
    redis.call('HDEL', running, unpack(removed))
  end
end

-- False: it may be claimed.
local function obstacle(i, mark, version)
  if versions and ARGV[versions_at + i] ~= '' and version ~= ARGV[versions_at + i] then
    return 'V'
  elseif running and ARGV[policies + i] ~= ''
    and overlaps(mark, ARGV[policies + 2 * m + i], now) then
    return 'O'
  end
  return false
end

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
  local marks = running and redis.call('HMGET', running, unpack(ARGV, names + 1, names + m)) or {}
  local stored = versions and redis.call('HMGET', versions, unpack(ARGV, names + 1, names + m)) or {}
  local letters, written, w, skipped, waiting = {}, {}, 0, {}, {}
  for i = 1, m do
    local value = ARGV[claims + i]
    if held[i] then
      letters[i] = held[i] == value and 'C' or 'P'
    elseif paused then
      letters[i] = 'S'
    elseif (found[i] or '') ~= ARGV[runs + i] then
      local skips = running and ARGV[policies + i] == 'S'
      letters[i] = skips and found[i] == ARGV[policies + 3 * m + i] and 'O' or 'D'
    elseif any_ahead and moment_of(value) > limit then
      letters[i] = 'A'
    elseif obstacle(i, marks[i], stored[i]) then
      letters[i] = obstacle(i, marks[i], stored[i])
      if letters[i] == 'O' and ARGV[policies + i] == 'S' then
        skipped[#skipped + 1] = ARGV[names + i]
        skipped[#skipped + 1] = ARGV[policies + 3 * m + i]
      end
    else
      written[w + 1], written[w + 2] = ARGV[names + i], value
      w = w + 2
      letters[i] = 'C'
      if running and ARGV[policies + i] ~= '' then
        waiting[#waiting + 1] = ARGV[names + i]
        waiting[#waiting + 1] =
          waiting_mark(marks[i], ARGV[policies + 2 * m + i], now, ARGV[policies + m + i])
      end
    end
  end
  if #skipped > 0 then
    redis.call('HSET', KEYS[2], unpack(skipped))
  end
  if #waiting > 0 then
    redis.call('HSET', running, unpack(waiting))
  end
  if w > 0 then
    redis.call('HSET', KEYS[3], unpack(written))
  end
  return table.concat(letters)
end

-- Commits first: an entry may be in both.
local committed = n > 0 and commit(12, 12 + n, 12 + 2 * n) or ''
if n > 0 and running then
  unmark(12)
end
local claims_at = 12 + 3 * n
local claimed = m > 0 and claim(claims_at, claims_at + m, claims_at + 2 * m) or ''
return {status(), now, committed, claimed}
