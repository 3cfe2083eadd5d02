-- Load for `scpl-ray serve`: each request asks one line of a file of texts, in turn.
--   wrk -t1 -c16 -d20s --latency -s examples/serving.lua http://127.0.0.1:8000 -- texts.txt OPTIONS
-- OPTIONS is JSON that goes into the request, e.g. '"early_exit": false'.
local texts, next_text, options = {}, 0, ""

local function quoted(text)
  return '"' .. text:gsub("[%c\\\"]", function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

function init(args)
  for line in io.lines(args[1]) do texts[#texts + 1] = quoted(line) end
  options = args[2] and args[2] ~= "" and (", " .. args[2]) or ""
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  next_text = next_text % #texts + 1
  return wrk.format(nil, "/predict", nil, '{"inputs": [' .. texts[next_text] .. "]" .. options .. "}")
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function response(status, headers, body)
  if status ~= 200 then failed = (failed or 0) + 1; return end
  local exit = tonumber(body:match('"exit":(%d+)'))
  if exit == 1 then exit_1 = (exit_1 or 0) + 1
  elseif exit == 2 then exit_2 = (exit_2 or 0) + 1
  else exit_more = (exit_more or 0) + 1 end
end

function done(summary, latency, requests)
  local sums = {exit_1 = 0, exit_2 = 0, exit_more = 0, failed = 0}
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + (thread:get(name) or 0) end
  end
  print(string.format("exit 1: %d, exit 2: %d, later: %d, not 200: %d; %.0f requests/s, p50 %.1f ms, p99 %.1f ms",
    sums.exit_1, sums.exit_2, sums.exit_more, sums.failed,
    1e6 * summary.requests / summary.duration, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
