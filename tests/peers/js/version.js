// Prints grpc-js's version: it is there.
'use strict';

console.log(require('@grpc/grpc-js/package.json').version);
