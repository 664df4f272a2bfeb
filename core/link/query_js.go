package link

import "github.com/drv-thru/drv-thru/core/wire"

// errorsQuery asks the relay for refusals that can be seen here: a page sees
// only what comes on a WebSocket.
const errorsQuery = "?" + wire.RelayErrorsQuery + "=" + wire.RelayErrorsSocket
