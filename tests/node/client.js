// A client in another language, from the proto and its comments alone:
//   node client.js HOST:PORT service.proto [TOKEN]
// It follows everything below fx/, prints the state after each batch as a line of JSON, resumes
// where the stream broke, and does what it reads from stdin: a put {"key", "value", "expect"?}.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const readline = require("readline");

const [address, proto, token] = process.argv.slice(2);
const types = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true });
const { DataService } = grpc.loadPackageDefinition(types).datastream;
const client = new DataService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
if (token) metadata.set("authorization", `Bearer ${token}`);

const print = (what) => console.log(JSON.stringify(what));
let state = {};
let cursor = "";

function take(entries) {
  for (const [key, data] of Object.entries(entries)) {
    if (data.operation === "OPERATION_DELETE") delete state[key];
    else state[key] = { value: data.value.toString(), type: data.value_type, revision: data.revision };
  }
}

function follow() {
  // All parts of a batch count, or none: what is lost with the connection comes again.
  let batch = [];
  const call = client.Subscribe({ keys: ["fx/"], since: cursor, deletes: true }, metadata);
  call.on("data", (response) => {
    batch.push(response);
    if (response.partial) return;
    if (batch[0].reset || (batch[0].initial && !cursor)) state = {};
    batch.forEach((part) => take(part.data));
    batch = [];
    cursor = response.cursor;
    print({ state });
  });
  call.on("error", (error) => {
    print({ lost: grpc.status[error.code] });
    setTimeout(follow, 100 + Math.random() * 100);
  });
}

function put({ key, value, expect }) {
  const data = { key, value: Buffer.from(value), value_type: "str" };
  const item = expect === undefined ? { data } : { data, expect };
  client.Write({ writes: [item], id: `${Date.now()}${Math.random()}` }, metadata, (error, response) => {
    if (error) print({ error: error.metadata.get("datastream-error")[0], code: grpc.status[error.code] });
    else print({ stored: response.entries[0].key, revision: response.entries[0].revision });
  });
}

follow();
const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => put(JSON.parse(line)));
lines.on("close", () => process.exit(0));
