-- Shared by the scripts of the election: put before each of them, after the one for the epoch.
--
-- The record is a hash: holder, token, renewal, resigned, ttl (ms), epoch; and, of a record that was
-- resigned in somebody's favour, successor: for so long as one wait the others let it go first. The
-- version of a record is what a candidate must have seen unchanged before it may take it over:
-- the epoch of the server now, that of the server which wrote it last, token, renewal, resigned.

-- Return a nonce that no other execution makes, not even of the same request.
local function fresh(nonce)
  local now = redis.call('TIME')
  return nonce .. '-' .. now[1] .. string.format('%06d', tonumber(now[2]))
end

-- Tell whether a renewal has the form that fresh() gives it. Others may write the same text again,
-- and then nothing would show that their hash is another one. Seven digits or more: the clock of a
-- server that was never set begins in 1970.
local function is_fresh(renewal)
  return #renewal <= 128 and string.find(renewal, '%-%d%d%d%d%d%d%d+$') ~= nil
end

-- Return the present moment in milliseconds, to number tokens and history; it decides nothing.
local function now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

-- Return a whole number in [0, 2^53), or 0 for anything else.
local function whole(text)
  local number = tonumber(text or '')
  -- Not 0 itself either: it may be the -0 of "-0", which is written as such.
  if not number or number ~= number or number <= 0 or number >= 9007199254740992 then
    return 0
  end
  return math.floor(number)
end

-- Return a fencing token, or 0 for what no election has made: tokens begin at the milliseconds since
-- 1970 and grow by one, so they are below 2^52 for another 140,000 years.
local function token_of(text)
  local number = whole(text)
  return number < 4503599627370496 and number or 0
end

local function digits(number)
  return string.format('%.0f', number)
end

-- Read the record; nil where there is none. Fields of the wrong shape read as empty or 0.
local function read(key, epoch)
  local raw = redis.call('HMGET', key, 'holder', 'token', 'renewal', 'resigned', 'ttl', 'epoch',
    'successor')
  local any = false
  for place = 1, 6 do
    any = any or raw[place]
  end
  if not any and redis.call('EXISTS', key) == 0 then
    return nil
  end
  local record = {
    holder = raw[1] or '', token = token_of(raw[2]), resigned = raw[4] == '1',
    ttl = whole(raw[5]), epoch = raw[6] or '', successor = raw[7] or '',
    is_named = is_fresh(raw[3] or ''),
  }
  record.version = table.concat({
    epoch, record.epoch, raw[2] or '', raw[3] or '', raw[4] or '',
  }, '|')
  if #record.version > 512 then
    -- Not ours. Do not send megabytes with each observation.
    record.version = redis.sha1hex(record.version)
  end
  return record
end

-- Write the record and return it as read() would.
local function write(key, epoch, holder, token, renewal, ttl)
  -- The key must never be absent for a moment: while a slot of a cluster migrates, its old node
  -- creates no keys, so what a script deleted would be lost. Foreign fields are removed anyway.
  if redis.call('HLEN', key) > 6 then
    redis.call('HDEL', key, 'successor')
    if redis.call('HLEN', key) > 6 then
      redis.call('DEL', key)
    end
  end
  -- A long life, so that an abandoned election goes away one day. Set first, since a server that is
  -- out of memory lets a script continue that has begun to write, but not begin with HSET.
  local life = digits(math.max(604800000, 10 * ttl))
  local there = redis.call('PEXPIRE', key, life) == 1
  redis.call('HSET', key, 'holder', holder, 'token', digits(token), 'renewal', renewal,
    'resigned', '0', 'ttl', digits(ttl), 'epoch', epoch)
  if not there then
    redis.call('PEXPIRE', key, life)
  end
  return read(key, epoch)
end

-- Read the record, or write a vacancy with a name of its own where there is none, so that a second
-- loss of data can be told from the first. A hash without such a name, which is not ours, gets one:
-- another one that comes in its place is not taken for it.
local function read_or_vacate(key, epoch, nonce, longest_ttl, token)
  local record = read(key, epoch)
  if record and not record.is_named then
    local name = fresh(nonce)
    -- A field that nobody has: a server that is out of memory lets a script go on that has begun to
    -- write. Nothing of the hash goes, so that the key is never absent.
    redis.call('HDEL', key, name)
    redis.call('HSET', key, 'renewal', name)
    record = read(key, epoch)
  end
  if record then
    return record, false
  end
  return write(key, epoch, '', token_of(token), fresh(nonce), tonumber(longest_ttl)), true
end

-- Add to the history. The record is written by then, so the script must not fail: a key of another
-- type, or a stream that is exhausted, is replaced.
local function tell(key, event, holder, token, reason)
  local at = digits(now_ms())
  local added = redis.pcall('XADD', key, 'MAXLEN', '~', '1000', '*', 'event', event,
    'holder', holder, 'token', digits(token), 'reason', reason, 'at', at)
  if type(added) == 'table' then
    if string.find(added.err, 'WRONGTYPE') or string.find(added.err, 'exhausted')
      or string.find(added.err, 'equal or smaller') then
      redis.call('DEL', key)
    end
    redis.call('XADD', key, '*', 'event', event, 'holder', holder, 'token', digits(token),
      'reason', reason, 'at', at)
  end
  redis.call('PEXPIRE', key, '604800000')
end

-- RETURNS of every script: status, version, server's epoch, holder, token, ttl in ms, and 1 if it
-- was resigned on this server in its present epoch; if it was in somebody's favour, a space and the
-- candidate's id come after that.
-- A resignation that came here with a copy does not count: whoever resigned it may have been
-- followed by another leader elsewhere.
local function answer(status, record, epoch)
  local resigned = record.resigned and (record.epoch == epoch and 1 or ELSEWHERE) or 0
  if record.resigned and record.successor ~= '' then
    resigned = resigned .. ' ' .. string.sub(record.successor, 1, 512)
  end
  return { status, record.version, epoch, string.sub(record.holder, 1, 512), digits(record.token),
    digits(record.ttl), resigned }
end
