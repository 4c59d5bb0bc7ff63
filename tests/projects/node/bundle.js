// One file out of lib and the dependency, with what a bundler likes to know about a build.
'use strict'
const fs = require('fs')
const os = require('os')
const path = require('path')

const seconds = process.env.SOURCE_DATE_EPOCH || Date.now() / 1000
const built = new Date(seconds * 1000)
const environment = Object.entries(process.env).filter(([name]) => name !== '_').sort()
const header = {
  built: built.toISOString(),
  local: built.toString(),
  zone: Intl.DateTimeFormat().resolvedOptions(),
  project: process.env.PROJECT,
  directory: process.cwd(),
  user: os.userInfo(),
  home: os.homedir(),
  host: os.hostname(),
  umask: process.umask(),
  node: process.version,
  environment
}

const files = ['node_modules/greeting/index.js', ...fs.readdirSync('lib').sort().map((name) => path.join('lib', name))]
const modules = files.map((file) => `// ${path.resolve(file)}\n${fs.readFileSync(file)}`)
fs.mkdirSync('dist')
fs.writeFileSync('dist/bundle.js', `/* ${JSON.stringify(header, null, 2)} */\n${modules.join('\n')}`)
