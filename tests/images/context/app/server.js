'use strict';
// Says on one line what the program sees of its surroundings.
const ms = require('ms');

console.log(JSON.stringify({
  version: process.version,
  cwd: process.cwd(),
  argv: process.argv,
  uid: process.getuid(),
  gid: process.getgid(),
  day: ms('1d'),
}));
