// A server for HTTP/2 in the open, which the AWS SDK speaks to http:// addresses, in front of one
// for HTTP/1.1: node http2_bridge.mjs http://127.0.0.1:PORT prints its own address.
import http from "node:http";
import http2 from "node:http2";

const upstream = new URL(process.argv[2]);
const server = http2.createServer((request, response) => {
  const headers = Object.fromEntries(
    Object.entries(request.headers).filter(([name]) => !name.startsWith(":")),
  );
  const { hostname: host, port } = upstream;
  const forwarded = http.request(
    { host, port, method: request.method, path: request.url, headers },
    (answer) => {
      const { connection, "transfer-encoding": encoding, ...kept } = answer.headers;
      response.writeHead(answer.statusCode, kept);
      answer.pipe(response);
    },
  );
  forwarded.on("error", () => response.destroy());
  request.pipe(forwarded);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
