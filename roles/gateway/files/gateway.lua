-- What HAProxy's own fetches and converters do not know: which model a request's body names, and waiting for a host.
--
-- json_query() would take the first of two keys where the routers (Python's json) take the last, gives up on JSON that is
-- nested more than twenty deep, as the schemas of tools are, and knows no forms.

local LONGEST_NAME = 256

local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}

-- What a JSON string without its quotes says.
local function unescaped(text)
  if not text:find("\\", 1, true) then return text end
  return (text:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, digits)
    if kind == "u" and #digits == 4 then return utf8.char(tonumber(digits, 16)) end
    return (ESCAPES[kind] or kind) .. digits
  end))
end

-- Where the string that begins at the quote `at` has its closing quote; nil where the body ends before.
local function closing_quote(body, at)
  local here = at + 1
  while true do
    local stop = body:find('["\\]', here)
    if not stop then return nil end
    if body:byte(stop) == 34 then return stop end
    here = stop + 2
  end
end

-- The value of the last key `model` of the object that `body` is, or of as much of it as is there: text, or nil.
local function model_of_json(body)
  local at = body:match("^\239?\187?\191?[ \t\r\n]*{()")
  local model, depth = nil, 1
  while at and depth > 0 do
    local stop = body:find('["{}%[%]]', at)
    if not stop then break end
    local sign = body:byte(stop)
    at = stop + 1
    if sign == 123 or sign == 91 then
      depth = depth + 1
    elseif sign == 125 or sign == 93 then
      depth = depth - 1
    else
      local close = closing_quote(body, stop)
      if not close then break end
      at = close + 1
      -- at the top level a string with a colon after it is a key
      local value = depth == 1 and body:match("^[ \t\r\n]*:[ \t\r\n]*()", at)
      if value and close - stop <= 6 * LONGEST_NAME and unescaped(body:sub(stop + 1, close - 1)) == "model" then
        model, at = nil, value
        if body:byte(value) == 34 then
          close = closing_quote(body, value)
          if not close then break end
          model = unescaped(body:sub(value + 1, close - 1))
          at = close + 1
        end
      end
    end
  end
  return model
end

-- The value of the field `model` of a form (RFC 7578), or nil.
local function model_of_form(body, content_type)
  local boundary = content_type:match('boundary="([^"]+)"') or content_type:match("boundary=([^; ]+)")
  if not boundary then return nil end
  local delimiter = "--" .. boundary
  local at = body:find(delimiter, 1, true)
  while at do
    local head = at + #delimiter
    local head_end = body:find("\r\n\r\n", head, true)
    if not head_end then return nil end
    local last = body:find("\r\n" .. delimiter, head_end + 2, true)
    local said = body:sub(head, head_end):match("\n[Cc]ontent%-[Dd]isposition:([^\r\n]*)") or ""
    local name = said:match('[; ]name="([^"]*)"') or said:match("[; ]name=([^; ]+)")
    if name == "model" and not said:find("filename", 1, true) then
      return last and body:sub(head_end + 4, last - 1)
    end
    at = last and last + 2
  end
  return nil
end

local function model_of(body, content_type)
  local found
  if content_type:lower():find("multipart/form-data", 1, true) then
    found = model_of_form(body, content_type)
  else
    found = model_of_json(body)
  end
  return found and found:sub(1, LONGEST_NAME)
end

if not core then
  -- no HAProxy around it: its tests
  return {model_of = model_of}
end

core.register_action("find_model", {"http-req"}, function(txn)
  local body = txn.f:req_body()
  local model = body and model_of(body, txn.f:req_hdr("content-type") or "")
  if model then txn:set_var("txn.model", model) end
end)

-- A server starts as if it were up, until its first check says otherwise: until then nobody knows where a model is.
local settled = false

-- Until the backend in txn.backend has a server, for `patience` seconds at most; `settling` is how long after its
-- start HAProxy takes to have checked every server once.
core.register_action("wait_for_host", {"http-req"}, function(txn, patience, settling)
  while not settled do
    settled = core.get_info().Uptime_sec >= tonumber(settling)
    if not settled then core.msleep(200) end
  end
  local backend = txn:get_var("txn.backend")
  local deadline = core.now().sec + tonumber(patience)
  while txn.f:nbsrv(backend) == 0 and core.now().sec < deadline do core.msleep(200) end
end, 2)

-- Whether a host has the model of a backend loaded: lua.loaded(BACKEND) is true or false, as JSON has it.
core.register_fetches("loaded", function(_, backend)
  for name, server in pairs(core.backends[backend].servers) do
    if name:find("%.loaded$") and server:get_stats().status:find("^UP") then return "true" end
  end
  return "false"
end)
