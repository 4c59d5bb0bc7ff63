exports.first = (name) => require('greeting')(name)
