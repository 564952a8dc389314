package devidp

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	cookieName = "hallpass-devidp"

	// signedInHeader names the user on the way back to the client, so that a Browser knows whose session it used.
	signedInHeader = "Hallpass-Signed-In-As"
)

//go:embed pages
var pageFiles embed.FS

var pages = template.Must(template.ParseFS(pageFiles, "pages/*.html"))

// page is what the templates show. html/template escapes all of it.
type page struct {
	Title   string
	Message string // a paragraph; on pages with an error, the error
	Error   bool
	Client  string
	Request string // id of the sign-in
	Code    string // user code of the device flow
	Users   []User
}

func (s *Server) render(w http.ResponseWriter, status int, name string, p page) {
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, name, p); err != nil {
		slog.Error("render page", "page", name, "error", err)
		http.Error(w, "cannot show this page", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(text.Bytes())
}

func (s *Server) renderError(w http.ResponseWriter, status int, message string) {
	s.render(w, status, "message.html", page{Title: "Not signed in", Message: message, Error: true})
}

func (s *Server) style(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, pageFiles, "pages/style.css")
}

func (s *Server) indexPage(w http.ResponseWriter, _ *http.Request) {
	s.render(w, http.StatusOK, "message.html", page{Title: "Development sign-in",
		Message: "This provider is for development: it lets everybody on this machine be anybody. Programs send you here to sign in."})
}

func (s *Server) signedOutPage(w http.ResponseWriter, _ *http.Request) {
	s.render(w, http.StatusOK, "message.html", page{Title: "Signed out", Message: "You are signed out."})
}

const startAgain = "This sign-in is unknown, finished or expired. Start it again from the program that sent you here."

// loginPage shows the buttons, unless the browser's session already says who this is.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	request, err := s.store.pending(r.Context(), r.URL.Query().Get("id"))
	if err != nil {
		s.renderError(w, http.StatusNotFound, startAgain)
		return
	}
	if found, ok := s.browserSession(r); ok && request.allows(found, momentOf(r.Context()).now) {
		s.finishLogin(w, r, request.id, found)
		return
	}
	if slices.Contains(request.Prompt, oidc.PromptNone) {
		s.refuseLogin(w, r, request, oidc.ErrLoginRequired().WithDescription("Nobody is signed in."))
		return
	}
	// Browsers hold form-action also against the redirects that follow, which end at the client's loopback address with
	// a port of its own; an IPv6 address cannot be named in a policy, so the scheme has to do.
	w.Header().Set("Content-Security-Policy", policy("'self' http:"))
	s.render(w, http.StatusOK, "login.html", page{Title: "Sign in", Client: request.ClientID, Request: request.id, Users: s.config.Users})
}

// login takes the click on a button of the login page.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	request, err := s.store.pending(r.Context(), r.PostFormValue("id"))
	if err != nil {
		s.renderError(w, http.StatusNotFound, startAgain)
		return
	}
	if r.PostForm.Has("refuse") {
		s.refuseLogin(w, r, request, oidc.ErrAccessDenied().WithDescription("The user refused."))
		return
	}
	user, ok := s.config.userByName(r.PostFormValue("user"))
	if !ok {
		s.renderError(w, http.StatusBadRequest, "There is no such user.")
		return
	}
	by := session{subject: user.Subject, authTime: momentOf(r.Context()).now}
	http.SetCookie(w, &http.Cookie{
		Name:     cookieName,
		Value:    s.store.signIn(by),
		Path:     "/",
		HttpOnly: true,
		Secure:   s.config.TLS != nil,
		SameSite: http.SameSiteLaxMode, // the client's redirect to /authorize must bring it along
	})
	s.finishLogin(w, r, request.id, by)
}

func (s *Server) finishLogin(w http.ResponseWriter, r *http.Request, id string, by session) {
	user, ok := s.config.userBySubject(by.subject)
	if err := s.store.finish(r.Context(), id, by); err != nil || !ok {
		s.renderError(w, http.StatusNotFound, startAgain)
		return
	}
	w.Header().Set(signedInHeader, url.QueryEscape(user.Name))
	callback := s.provider.AuthorizationEndpoint().Relative() + "/callback?" + url.Values{"id": {id}}.Encode()
	http.Redirect(w, r, callback, http.StatusSeeOther)
}

func (s *Server) refuseLogin(w http.ResponseWriter, r *http.Request, request *authRequest, reason *oidc.Error) {
	if err := s.store.DeleteAuthRequest(r.Context(), request.id); err != nil {
		s.renderError(w, http.StatusInternalServerError, startAgain)
		return
	}
	op.AuthRequestError(w, r, request, reason, s.provider)
}

func (s *Server) browserSession(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	return s.store.session(cookie.Value)
}

// endSession ends the browser's session before the provider ends those that the request's id_token_hint names.
func (s *Server) endSession(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		s.store.signOut(cookie.Value)
		http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1})
	}
	s.provider.ServeHTTP(w, r)
}

const noDevice = "This code is unknown, used or expired. Check it, or start again on the device."

// devicePage asks for the code that the device shows, or, with a code, for a user's approval. A code that came by the
// link is shown too, for people to hold against the device's (RFC 8628 3.3.1, 5.4).
func (s *Server) devicePage(w http.ResponseWriter, r *http.Request) {
	code := r.URL.Query().Get("user_code")
	if code == "" {
		s.render(w, http.StatusOK, "code.html", page{Title: "Sign in a device"})
		return
	}
	device, err := s.store.pendingDevice(r.Context(), code)
	if err != nil {
		s.render(w, http.StatusNotFound, "code.html", page{Title: "Sign in a device", Message: noDevice, Error: true})
		return
	}
	s.render(w, http.StatusOK, "device.html", page{Title: "Sign in a device", Client: device.clientID, Code: device.userCode, Users: s.config.Users})
}

// device takes the click on a button of the device page.
func (s *Server) device(w http.ResponseWriter, r *http.Request) {
	code := r.PostFormValue("user_code")
	if r.PostForm.Has("refuse") {
		if err := s.store.denyDevice(r.Context(), code); err != nil {
			s.renderError(w, http.StatusNotFound, noDevice)
			return
		}
		s.render(w, http.StatusOK, "message.html", page{Title: "Refused", Message: "The device was refused."})
		return
	}
	user, ok := s.config.userByName(r.PostFormValue("user"))
	if !ok {
		s.renderError(w, http.StatusBadRequest, "There is no such user.")
		return
	}
	by := session{subject: user.Subject, authTime: momentOf(r.Context()).now}
	if err := s.store.approveDevice(r.Context(), code, by); err != nil {
		s.renderError(w, http.StatusNotFound, noDevice)
		return
	}
	w.Header().Set(signedInHeader, url.QueryEscape(user.Name))
	s.render(w, http.StatusOK, "message.html", page{Title: "Signed in", Message: "The device is signed in as " + user.Name + ". You may close this page."})
}
