-- Calls every route in turn, so that finding one is never finding the last one again.
local requests, at = {}, 0

function init(arguments)
  local routes = tonumber(arguments[1])
  for number = 0, routes - 1 do
    requests[number] = wrk.format("GET", "/r" .. number .. "/orders")
  end
  requests.count = routes
end

function request()
  at = (at + 1) % requests.count
  return requests[at]
end
