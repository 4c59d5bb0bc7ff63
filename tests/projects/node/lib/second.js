exports.second = (name) => name.toUpperCase()
