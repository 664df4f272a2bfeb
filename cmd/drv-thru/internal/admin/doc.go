// Package admin is how commands on the builder's machine talk to the running
// builder: HTTP and JSON over a Unix socket (mode 0660). Whoever may open the
// socket is the builder's owner; there is no other check. Failures are the
// problem documents of package wire.
//
//	GET    /v1/status             Status
//	GET    /v1/tickets            []Ticket
//	POST   /v1/tickets            NewTicket → TicketText
//	GET    /v1/tickets/{id}       Ticket
//	GET    /v1/tickets/{id}/text  TicketText
//	DELETE /v1/tickets/{id}       ?cancel=true → Revoked
//	DELETE /v1/builds/{id}        cancels
//	POST   /v1/queue/{action}     pause, resume, drain, undrain → Status
package admin
