// Predicts as any user of Google's client for Node would, with an OIDC token in place of a Google credential.
//
// Usage: predict.mjs grpc|rest|stream PORT TOKEN ENDPOINT INSTANCES
// `stream` is serverStreamingPredict over gRPC. The gate is at localhost:PORT. Prints one JSON object:
// {"predictions": N, "model_version": ...}, {"pieces": N}, or {"refused": CODE, "message": ...}.
import { PredictionServiceClient, helpers } from '@google-cloud/aiplatform';
import { OAuth2Client } from 'google-auth-library';

const [way, port, token, endpoint, instances] = process.argv.slice(2);
const authClient = new OAuth2Client();
authClient.setCredentials({ access_token: token });
const client = new PredictionServiceClient({
  apiEndpoint: 'localhost',
  port: Number(port),
  fallback: way === 'rest',
  authClient,
});

async function predict() {
  const request = { endpoint, instances: JSON.parse(instances).map((instance) => helpers.toValue(instance)) };
  const [answer] = await client.predict(request);
  return { predictions: answer.predictions.length, model_version: answer.modelVersionId };
}

async function stream() {
  const stream = client.serverStreamingPredict({ endpoint, inputs: [{ dtype: 'INT64', int64Val: [1] }] });
  let pieces = 0;
  for await (const answer of stream) pieces += answer.outputs.length;
  return { pieces };
}

let answer;
try {
  answer = way === 'stream' ? await stream() : await predict();
} catch (error) {
  if (error.code === undefined) throw error;
  answer = { refused: error.code, message: error.message };
}
console.log(JSON.stringify(answer));
await client.close();
