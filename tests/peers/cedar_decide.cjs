// Decides calls with @cedar-policy/cedar-wasm: reads the cases that tests/tests/cedar.rs writes, and prints an answer a call.

const fs = require("fs");
const cedar = require("@cedar-policy/cedar-wasm/nodejs");

const uid = (type, id) => ({ type, id });

function decide({ policies, entities }, { principal, context }) {
  const answer = cedar.isAuthorized({
    principal: uid("Service", principal),
    action: uid("Action", "call"),
    resource: uid("Service", "prod/board"),
    context,
    policies: { staticPolicies: Object.fromEntries(policies.map((text, at) => [`policy${at}`, text])) },
    entities,
  });
  if (answer.type !== "success") throw new Error(JSON.stringify(answer));
  const { decision, diagnostics } = answer.response;
  return {
    allowed: decision === "allow",
    reasons: diagnostics.reason,
    errors: diagnostics.errors.map((error) => error.policyId),
  };
}

const cases = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const answers = cases.map((one) => one.requests.map((request) => decide(one, request)));
process.stdout.write(JSON.stringify(answers));
