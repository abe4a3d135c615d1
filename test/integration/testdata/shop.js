// The shop (shop/main.go) in JavaScript.
const net = require('net');
const readline = require('readline');

const version = 'v1';

function answer(line, then) {
  const c = net.connect(7000, 'shop.demo.svc.cluster.local', () => c.write(line + '\n'));
  readline.createInterface({ input: c }).once('line', (reply) => {
    c.end();
    then(reply);
  });
}

net.createServer((c) => {
  c.on('error', () => {});
  readline.createInterface({ input: c }).on('line', (line) => {
    if (line === 'bye') {
      c.end('bye\n', () => process.exit(0));
      return;
    }
    answer(line, (reply) => c.write(`node ${version} asked by ${c.remoteAddress.replace('::ffff:', '')}; ${reply}\n`));
  });
}).listen(Number(process.argv[2]), () => console.log('listening', version));
