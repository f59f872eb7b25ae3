// A small, ordinary Bolt app. Only its addresses and tokens come from the environment.

const { App, LogLevel } = require("@slack/bolt");

const app = new App({
  token: process.env.SLACK_BOT_TOKEN,
  appToken: process.env.SLACK_APP_TOKEN,
  socketMode: true,
  logLevel: LogLevel.ERROR,
  clientOptions: { slackApiUrl: process.env.SLACK_API_URL },
});

const button = {
  type: "actions",
  elements: [{ type: "button", action_id: "go", value: "42", text: { type: "plain_text", text: "Go" } }],
};

app.event("app_mention", async ({ event, say, client }) => {
  const first = await say({ text: "Thinking", thread_ts: event.ts });
  await client.chat.update({ channel: event.channel, ts: first.ts, text: "Done", blocks: [{ type: "markdown", text: "**Done** & dusted" }, button] });
  await client.reactions.add({ channel: event.channel, timestamp: event.ts, name: "eyes" });
});

app.command("/flow", async ({ command, ack, client, respond }) => {
  if (command.text === "modal") {
    await ack();
    await client.views.open({
      trigger_id: command.trigger_id,
      view: {
        type: "modal",
        callback_id: "ask",
        title: { type: "plain_text", text: "Name" },
        submit: { type: "plain_text", text: "OK" },
        blocks: [{ type: "input", block_id: "name", label: { type: "plain_text", text: "Name" }, element: { type: "plain_text_input", action_id: "input" } }],
      },
    });
    return;
  }
  await ack(`You said ${command.text}`);
  await respond({ text: "for everybody", response_type: "in_channel" });
});

app.action("go", async ({ ack, action, body, client }) => {
  await ack();
  await client.chat.postMessage({ channel: body.channel.id, thread_ts: body.message.thread_ts, text: `pressed ${action.value}` });
});

app.view("ask", async ({ ack, view, body, client }) => {
  await ack();
  const name = view.state.values.name.input.value;
  await client.filesUploadV2({ channel_id: (await client.conversations.open({ users: body.user.id })).channel.id, initial_comment: `Hi ${name}`, filename: "hi.txt", content: "hello" });
});

app.start().then(() => console.log("ready"), (error) => {
  console.error(error);
  process.exit(1);
});
