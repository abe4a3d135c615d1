// The Node program of the end-to-end tests. See programs_test.go for its steps; it has one
// more, ares, which resolves with Node's own resolver instead of the C library's.
'use strict';
const crypto = require('crypto'), dgram = require('dgram'), dns = require('dns'), fs = require('fs'), http = require('http'), net = require('net');

const patience = 120000;
const resend = 10000; // after which a datagram is sent again: it may be lost

function listen(port, name) {
  return new Promise((_, fail) => {
    http.createServer((req, res) => {
      const sum = crypto.createHash('sha256');
      let size = 0;
      req.on('data', b => { sum.update(b); size += b.length; });
      req.on('end', () => {
        const line = JSON.stringify({
          name, peer: `[${req.socket.remoteAddress}]:${req.socket.remotePort}`, method: req.method, path: req.url,
          agent: req.headers['user-agent'] || '', size, sha256: sum.digest('hex'),
        }) + '\n';
        fs.writeSync(1, line);
        res.end(line);
      });
    }).on('error', fail).listen(Number(port), '::', () => console.log(`listening ${name} ${port}`));
  });
}

function get(...where) {
  return new Promise((done, fail) => {
    let text = '';
    net.connect(...where, function () { this.write('GET / HTTP/1.0\r\n\r\n'); })
      .setTimeout(patience, function () { this.destroy(new Error('no answer')); })
      .on('data', b => { text += b; }).on('error', fail)
      .on('end', () => done(text.trim().split('\n').pop()));
  });
}

const tcp = (host, port) => get(Number(port), host);
const unix = name => get(name.replace(/^@/, '\0'));

async function datagram(host, port, connected) {
  const { address, family } = await dns.promises.lookup(host);
  const s = dgram.createSocket(family === 6 ? 'udp6' : 'udp4');
  try {
    return await new Promise((done, fail) => {
      const timer = setTimeout(() => { clearInterval(again); fail(new Error('no answer')); }, patience);
      const stop = f => x => { clearTimeout(timer); clearInterval(again); f(x); };
      const send = () => connected ? s.send('hello') : s.send('hello', Number(port), address);
      const again = setInterval(send, resend);
      s.on('error', stop(fail));
      s.on('message', (m, from) => stop(done)(from.address === address && from.port === Number(port) ? String(m) : 'answer from ' + from.address));
      if (connected) {
        s.connect(Number(port), address, send);
      } else {
        send();
      }
    });
  } finally {
    s.close();
  }
}

const steps = {
  listen, tcp, unix,
  udp: (host, port) => datagram(host, port, true),
  udpto: (host, port) => datagram(host, port, false),
  resolve: async name => (await dns.promises.lookup(name, { all: true })).map(a => a.address).join(' '),
  ares: async name => {
    const all = await Promise.allSettled([dns.promises.resolve4(name), dns.promises.resolve6(name)]);
    const found = all.flatMap(a => a.value || []);
    if (found.length === 0) throw all[0].reason;
    return found.join(' ');
  },
};

(async () => {
  for (let args = process.argv.slice(2); args.length > 0;) {
    const run = steps[args[0]], words = args.slice(1, 1 + run.length);
    let result;
    try {
      result = await run(...words);
    } catch (e) {
      result = e.code === 'ENOTFOUND' ? 'nxdomain' : e.code || String(e);
    }
    console.log([args[0], ...words].join(' ') + '\t' + result);
    args = args.slice(1 + run.length);
  }
})();
