// An HTTP server inside of TLS, of HTTP/1.1 and HTTP/2: secure.js NAME PORT CERT KEY. It answers as test/workload does.
const fs = require('fs');
const http2 = require('http2');

const [name, port, cert, key] = process.argv.slice(2);
http2.createSecureServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key), allowHTTP1: true }, (req, res) => {
  let size = 0;
  req.on('data', (b) => { size += b.length; });
  req.on('end', () => {
    const { remoteAddress, remotePort } = req.socket;
    res.setHeader('Content-Type', 'application/json');
    res.end(JSON.stringify({ name, peer: `${remoteAddress}:${remotePort}`, method: req.method, path: req.url, size }));
  });
}).listen(Number(port), '0.0.0.0');
