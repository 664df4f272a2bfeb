// Package admin is how commands on the builder's machine talk to the running
// builder: HTTP and JSON over a Unix socket (mode 0660). Whoever may open the
// socket is the builder's owner; there is no other check. Failures are the
// problem documents of package wire.
//
//	GET    /v1/status              Status
//	GET    /v1/tickets             []Ticket
//	POST   /v1/tickets             NewTicket → TicketText
//	GET    /v1/tickets/{id}        Ticket
//	GET    /v1/tickets/{id}/text   TicketText
//	GET    /v1/tickets/{id}/usage  TicketUsage
//	DELETE /v1/tickets/{id}        ?cancel=true → Revoked
//	GET    /v1/builds              []builder.BuildStatus
//	GET    /v1/builds/{id}         builder.BuildStatus
//	GET    /v1/builds/{id}/events  ?follow=true → wire.Event, one a line
//	DELETE /v1/builds/{id}         cancels → builder.BuildStatus
//	POST   /v1/queue/{action}      pause, resume, drain, undrain → Status
//	POST   /v1/gc                  ?dry_run=true → []builder.Garbage
//	GET    /v1/policies            []policies.Info
//	GET    /v1/decisions           ?n=N → []state.Decision, the newest first
//	GET    /v1/state               a copy of the database
//
// An ID may be cut short where that is unique, and a ticket be named by its name.
package admin
