-- At the ingress of an Envoy, what our own data plane does by itself with an app's response: what `connection` names is for this
-- connection only (RFC 9110 s.7.6.1). Envoy takes off the field, and not what it names.

function envoy_on_response(handle)
  local headers = handle:headers()
  -- What follows a protocol's switch is for Envoy to see.
  if headers:get(":status") == "101" then
    return
  end
  for at = 0, headers:getNumValues("connection") - 1 do
    for name in headers:getAtIndex("connection", at):gmatch("[^%s,]+") do
      if name:sub(1, 1) ~= ":" then
        headers:remove(name)
      end
    end
  end
end
