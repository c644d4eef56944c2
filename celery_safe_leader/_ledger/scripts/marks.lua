-- marks: what keeps the runs of an entry from overlapping. Put after guard, before the scripts that
-- publish, claim or settle.
--
-- A mark is the id of an occurrence, then the moment until which its message waits (0: it waits no
-- more), then one for each attempt that runs, all in microseconds by Redis's clock:
--   <occurrence> <until> <attempt>:<until> …
-- A moment that has passed does not count: so ends what nobody reports.

local function mark_of(mark, occurrence)
  return mark and string.sub(mark, 1, #occurrence + 1) == occurrence .. ' '
end

-- Whether a run would overlap the one that the mark is of. Nothing overlaps itself: a run whose
-- record was lost is published again.
local function overlaps(mark, occurrence, now)
  if not mark or mark_of(mark, occurrence) then
    return false
  end
  for ends in string.gmatch(mark, '[ :](%d+)') do
    if tonumber(ends) > now then
      return true
    end
  end
  return false
end

-- The mark of an occurrence whose message waits from now on, or again.
local function waiting_mark(mark, occurrence, now, wait)
  local attempts = mark_of(mark, occurrence) and string.match(mark, '^%S+ %d+(.*)$') or ''
  return occurrence .. ' ' .. string.format('%.0f', now + tonumber(wait)) .. attempts
end
