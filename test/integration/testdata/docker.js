// What docker does at first: it connects to its service, which is not there.
require('net').connect(process.argv[2]).on('error', (e) => console.log(e.code));
