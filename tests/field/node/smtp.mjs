// Nodemailer's smtp-server. The first argument is JSON: port, pem, folder for mails, user, password, tokens, methods.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { SMTPServer } from "smtp-server";

const { port, pem, folder, user, password, token, methods, options } = JSON.parse(process.argv[2]);
const say = (event, details) => console.log(JSON.stringify({ event, ...details }));
const file = readFileSync(pem);
const refusal = (code, message) => Object.assign(new Error(message), { responseCode: code });
let count = 0;

const server = new SMTPServer({
  key: file,
  cert: file,
  authMethods: methods,
  logger: false,
  size: 3_000_000,
  ...options,
  onAuth(auth, session, callback) {
    say("login", { method: auth.method, user: auth.username });
    const good = auth.username === user && (auth.method === "XOAUTH2" ? auth.accessToken === token : auth.password === password);
    if (good) return callback(null, { user: auth.username });
    if (auth.method === "XOAUTH2") return callback(null, { data: { status: "401", schemes: "bearer mac", scope: "mail" } });
    return callback(refusal(535, "5.7.8 Wrong user name or password"));
  },
  onRcptTo(address, session, callback) {
    if (address.address.startsWith("unknown@")) return callback(refusal(550, "5.1.1 No such user here"));
    if (address.address.startsWith("full@")) return callback(refusal(452, "4.2.2 Mailbox full"));
    callback();
  },
  onData(stream, session, callback) {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => {
      if (stream.sizeExceeded) return callback(refusal(552, "5.3.4 Too large"));
      const to = session.envelope.rcptTo.map((one) => one.address);
      const name = `${process.pid}.${++count}`;
      writeFileSync(join(folder, name), Buffer.concat(chunks));
      say("mail", { name, from: session.envelope.mailFrom.address, to, secure: session.secure, helo: session.hostNameAppearsAs });
      callback(null, `2.0.0 Kept as ${name}`);
    });
  },
});
server.on("error", (error) => say("trouble", { error: String(error) }));
server.listen(port, "127.0.0.1");
