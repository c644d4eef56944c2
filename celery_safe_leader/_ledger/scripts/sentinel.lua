-- sentinel: how the field that both hashes carry is read and written. Put before the scripts.
--
-- format, generation, step, state, owner, with blanks between them. The format comes first in
-- every release: 2 while a pause is in force, which keeps releases that know none from adopting.
-- The state is `partial`, or `whole/<mark>`, then the number of the last pause if there was one:
--   1 … whole/<mark>                   2 … whole/<mark>/<number>/<end in microseconds, or 0>
--   1 … whole/<mark>/<number>          (that pause is over)
-- `partial` stands alone but for a pause in force, since releases that know no pause compare it;
-- the number of a pause that is over follows the generation then, of which they make nothing.
-- So do the steps that were executed and not answered, if there are others than the last one:
--   <generation>/<number>+<first>-<last>,<first>-<last>

-- Entry names are UTF-8, in which the byte 255 does not occur: no entry can have this name.
local SENTINEL = '\255ledger'

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A pause: its number, its end ('0': none), and whether it is in force. Nil if there is none.
local function parse_pause(format, state)
  local number, ends = string.match(state, '^[^/]*/[^/]*/(%d+)/?(%d*)$')
  if not number then
    return nil
  end
  return {number = number, ends = ends ~= '' and ends or '0', on = format == '2'}
end

-- Nil if no release writes this.
local function parse_sentinel(raw)
  local format, generation, step, state, owner =
    string.match(raw or '', '^(%d+) (%S+) (%d+) (%S+) (.*)$')
  if not format then
    return nil
  end
  local bare, number, steps = string.match(generation, '^([^/+]+)/?(%d*)%+?([%d,-]*)$')
  local pause = parse_pause(format, state)
  if format == '2' and not pause then
    return nil
  end
  if number and number ~= '' and not pause then
    pause = {number = number, ends = '0', on = false}
  end
  return {
    format = format, generation = bare or generation, step = step, steps = steps or '',
    owner = owner, pause = pause,
    partial = string.match(state, '^[^/]*') == 'partial',
    mark = string.match(state, '^whole/([^/]+)') or '',
  }
end

local function compose_sentinel(generation, step, steps, owner, partial, mark, pause)
  local format, state = '1', partial and 'partial' or 'whole/' .. mark
  if pause and pause.on then
    format = '2'
    state = (partial and 'partial/-' or state) .. '/' .. pause.number .. '/' .. pause.ends
  elseif pause and partial then
    generation = generation .. '/' .. pause.number
  elseif pause then
    state = state .. '/' .. pause.number
  end
  if steps ~= '' then
    generation = generation .. '+' .. steps
  end
  return table.concat({format, generation, step, state, owner}, ' ')
end

-- A pause that has run out is over for whoever meets it.
local function end_pause(pause)
  if pause and pause.on and pause.ends ~= '0' and now_us() >= tonumber(pause.ends) then
    pause.on = false
  end
end

-- The first field of the answer of a script that was accepted: OK, the last pause if there was
-- one, and the steps as in the sentinel.
local function ok(pause, steps)
  if not pause then
    return steps == '' and 'OK' or 'OK ' .. steps
  end
  local status = table.concat({'OK', pause.on and '2' or '1', pause.number, pause.ends}, ' ')
  return steps == '' and status or status .. ' ' .. steps
end

-- The caller must hold the lease.
local function fence()
  local lease = redis.call('HMGET', KEYS[1], 'holder', 'token', 'resigned')
  if lease[1] == ARGV[1] and lease[2] == ARGV[2] and lease[3] == '0' then
    return nil
  end
  return {'FENCED', lease[1] or '', lease[2] or '', lease[3] or ''}
end
