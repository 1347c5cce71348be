-- The health of an object of PSR, of any kind, from its conditions (docs/operator.md has the table).
--
-- Lua 5.1 as Argo CD runs it: no library but the base and table ones, `obj` is the object. The order is kstatus's.
-- An object that is going away never gets here: Argo CD calls it Progressing by itself.

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function health(word, condition)
  local text = condition.reason
  if condition.message ~= nil and condition.message ~= "" then
    text = text .. ": " .. condition.message
  end
  return { status = word, message = text }
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

if status.observedGeneration ~= obj.metadata.generation or conditions.Ready == nil then
  return { status = "Progressing", message = "the operator has not looked at this version yet" }
end
if holds("Reconciling") then
  return health("Progressing", conditions.Reconciling)
end
if holds("Stalled") then
  return health("Degraded", conditions.Stalled)
end
if holds("Ready") then
  return health("Healthy", conditions.Ready)
end
-- At rest, and nothing is wrong: suspended by its user, or a server that was released and comes back when it is needed.
return health("Suspended", conditions.Suspended or conditions.Ready)
